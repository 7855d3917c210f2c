"""What can be wrong with a configuration, before anybody knows in which file it stands."""

from __future__ import annotations


class ConfigError(Exception):
    """A configuration cannot be read; `file` is "" where only the caller knows it, `line` 0 where none is at fault."""

    def __init__(self, what: str, *, file: str = "", line: int = 0) -> None:
        super().__init__(what)
        self.file = file
        self.line = line
