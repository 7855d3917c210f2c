"""The ground floor: what runs on a node, and the observation schema that leaves it."""

__version__ = "0.1.0"
