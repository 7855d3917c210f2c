"""Asking health ports for real: who asks whom (`questions`), how often (`rounds`), and by which hands."""
