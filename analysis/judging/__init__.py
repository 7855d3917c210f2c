"""Journeys → verdicts: what is known, what follows from it, who did it, and what should have been."""
