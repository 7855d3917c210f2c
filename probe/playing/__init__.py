"""Scenarios of the lab, played under watch and held against what must come of them."""
