"""The report for programs: JSON, JSON lines and YAML, all from the same built-in values.

The JSON of `-o json` is the contract (docs/report.md). All three are written in ASCII with escapes, so that
nothing in them can speak to a terminal, and read back as the same values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from analysis.report import Report

_OUTSIDE_ASCII = re.compile("[^\\x00-\\x7e]")

_SURROGATE = re.compile("[\ud800-\udfff]")

#: Plain keys that YAML 1.1 readers take for something else than text.
_YAML_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


def to_json(value: Any) -> str:
    """Any msgspec value as indented JSON."""
    return _ascii(msgspec.json.format(_encoded(value), indent=2).decode())


def to_line(value: Any) -> str:
    """Any msgspec value as JSON on one line."""
    return _ascii(_encoded(value).decode())


def to_jsonl(report: Report) -> Iterator[str]:
    """One object a line: the report without its lists, each journey, each finding; `type` says which."""
    built = msgspec.to_builtins(report)
    journeys, findings = built.pop("journeys"), built.pop("findings")
    yield to_line({"type": "report", **built})
    for journey in journeys:
        yield to_line({"type": "journey", **journey})
    for finding in findings:
        yield to_line({"type": "finding", **finding})


def to_yaml(value: Any) -> str:
    """Any msgspec value as YAML 1.2 in block style; scalars are JSON's, which YAML contains."""
    return "\n".join(_block(msgspec.to_builtins(value), "")) + "\n"


def _encoded(value: Any) -> bytes:
    """JSON of a value. Bytes of a file's name that are no text, which Python has as surrogates, are written out."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        written = json.dumps(msgspec.to_builtins(value), ensure_ascii=False)
        return _written_out(written).encode()


def _written_out(written: str) -> str:
    return _SURROGATE.sub(lambda found: f"\\\\u{ord(found.group()):04x}", written)


def _block(value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _entry(f"{indent}{_key(str(key))}:", item, indent + "  ")
    elif isinstance(value, list | tuple) and value:
        for item in value:
            first, *rest = _block(item, indent + "  ")
            yield f"{indent}- {first.lstrip(' ')}"
            yield from rest
    else:
        yield indent + _scalar(value)


def _entry(head: str, item: Any, indent: str) -> Iterator[str]:
    if isinstance(item, dict | list | tuple) and item:
        yield head
        yield from _block(item, indent)
    else:
        yield f"{head} {_scalar(item)}"


def _key(text: str) -> str:
    return (
        text
        if re.fullmatch("[A-Za-z][A-Za-z0-9]*", text) and text.lower() not in _YAML_WORDS
        else _scalar(text)
    )


def _scalar(value: Any) -> str:
    written = _written_out(json.dumps(value, ensure_ascii=False))
    return _OUTSIDE_ASCII.sub(lambda found: f"\\U{ord(found.group()):08x}", written)


def _ascii(text: str) -> str:
    return _OUTSIDE_ASCII.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    """JSON's escape of one character, a surrogate pair beyond the basic plane (RFC 8259 §7)."""
    units = found.group().encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
