"""The command line, run as a person would."""

from tests.cli.conftest import probe

__all__ = ["probe"]
