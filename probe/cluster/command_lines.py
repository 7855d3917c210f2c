"""The command line of a container, as far as its pod says it.

A pod names `command` (the image's entry point in another place) and `args`. Where neither names the program, the
image does, and nobody outside the image can tell; flags alone are then taken for the program that is looked for.
`$(NAME)` stands for a variable of the container's environment (core/v1 Container); a variable whose value comes
from elsewhere is not known, and a shell's own syntax is read only where a script is one plain command.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from probe.cluster.fields import Json, ObjectsError, objects, text

Flags = dict[str, str]

#: Longest command line that is read, in arguments and in characters of one argument.
MOST_ARGUMENTS = 1024
LONGEST = 64 * 1024

_VARIABLE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")
_SHELLS = frozenset({"sh", "bash", "ash", "dash"})
_NOT_PLAIN = re.compile(r"[;&|<>`\n]|\$[^(]|\$\(")


class UnknownCommandError(ValueError):
    """The pod does not say what is run; the message says why, in one line."""


def environment(container: Json) -> dict[str, str]:
    """Variables of a container whose values stand in its pod."""
    found: dict[str, str] = {}
    for entry in objects(container, "env"):
        if isinstance(entry.get("value"), str):
            found[text(entry, "name")] = entry["value"][:LONGEST]
    return found


def unknown_variables(container: Json) -> frozenset[str]:
    """Variables of a container whose values come from elsewhere."""
    return frozenset(text(entry, "name") for entry in objects(container, "env") if entry.get("valueFrom"))


def command_line(container: Json, environ: dict[str, str] | None = None) -> list[str]:
    """`command` and `args` of a container with what is known of its environment put in."""
    known = environment(container) if environ is None else environ
    found: list[str] = []
    for name in ("command", "args"):
        listed = container.get(name)
        if listed is None:
            continue
        if not isinstance(listed, list):
            raise ObjectsError(f"container {text(container, 'name')}: {name} is not a list")
        found += [str(each)[:LONGEST] for each in listed[:MOST_ARGUMENTS]]
    return [_filled(each, known) for each in found]


def _filled(written: str, known: Mapping[str, str]) -> str:
    """An argument with its variables put in, up to LONGEST: few letters can ask for a long value many times."""
    parts: list[str] = []
    at = length = 0
    for met in _VARIABLE.finditer(written):
        parts += (written[at : met.start()], known.get(met[1], met[0]))
        length += sum(map(len, parts[-2:]))
        at = met.end()
        if length > LONGEST:
            break
    return "".join([*parts, written[at:]])[:LONGEST]


def program_arguments(container: Json, *programs: str) -> list[str] | None:
    """The arguments of a program in a container; None where it runs another, or nothing tells which.

    Flags without a program are the arguments of what the image starts, which is taken to be the one that is looked
    for.
    """
    words = _unwrapped(command_line(container))
    if not words:
        return []
    if words[0].startswith("-"):
        return words
    for at, word in enumerate(words[:4]):
        if word.rpartition("/")[2] in programs:
            return words[at + 1 :]
    return None


def _unwrapped(words: list[str]) -> list[str]:
    """What a shell, an init or `exec` in front of a command comes down to."""
    if len(words) >= 3 and words[0].rpartition("/")[2] in _SHELLS and words[1] in {"-c", "-ec", "-xc", "-lc"}:
        try:
            words = shlex.split(words[2])
        except ValueError:
            return words
    while words and words[0] in {"exec", "/usr/bin/dumb-init", "dumb-init", "tini", "/sbin/tini", "--"}:
        words = words[1:]
    return words


def plain_command(container: Json) -> list[str]:
    """The words of the one command that a container runs. Raises UnknownCommandError where that is not told."""
    words = command_line(container)
    if not words or words[0].startswith("-"):
        raise UnknownCommandError("its command line stands in its image")
    if len(words) >= 3 and words[0].rpartition("/")[2] in _SHELLS and words[1] in {"-c", "-ec", "-xc", "-lc"}:
        if _NOT_PLAIN.search(words[2]):
            raise UnknownCommandError("a shell's script starts it")
        try:
            words = shlex.split(words[2])
        except ValueError as error:
            raise UnknownCommandError("a shell's script starts it") from error
    if any(_VARIABLE.search(word) for word in words):
        raise UnknownCommandError("its arguments hold variables whose values are not told")
    unwrapped = _unwrapped(words)
    if not unwrapped:
        raise UnknownCommandError("its shell's script is empty")
    return unwrapped


def flags_of(arguments: Sequence[str]) -> Flags:
    """Flags by name without dashes: `--name=value`, `--name value`, and `--name` alone, which is "true"."""
    found: Flags = {}
    listed = list(arguments)
    for at, argument in enumerate(listed):
        if not argument.startswith("-") or argument.strip("-") == "":
            continue
        name, equals, value = argument.lstrip("-").partition("=")
        following = listed[at + 1] if at + 1 < len(listed) else "-"
        if not equals:
            value = "true" if following.startswith("-") else following
        found[name] = value
    return found
