"""The top floor: what a person types and sees."""

from daemonset import __version__

__all__ = ["__version__"]
