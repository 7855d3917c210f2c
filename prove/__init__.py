"""Figures about what must never happen: `python -m prove`, or `make prove`. See docs/reliability.md."""
