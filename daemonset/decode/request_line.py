"""Request lines without what only their servers need to know: queries hold tokens, and authorities passwords.

    GET /reset?token=hunter2 HTTP/1.1            GET /reset?#af2d907ccd23 HTTP/1.1
    GET http://user:pw@host/ HTTP/1.1            GET http://host/ HTTP/1.1

What stands behind the path is told by a digest, so that the same request is known again at the next hop, on another
node and in a capture file: the digest has no key. Who has a guess can confirm it; nobody can read it. A target that was
treated once stays as it is. Pure.
"""

from __future__ import annotations

import re
from hashlib import blake2b

_SIZE = 6  # bytes of a digest

#: The scheme and authority of an absolute form (RFC 9112 section 3.2.2), or an authority alone (CONNECT).
_authority = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)?(?P<authority>[^/?#;]*)").match

_behind_path = re.compile(r"[?#;]").search
_treated = re.compile(rf"#[0-9a-f]{{{2 * _SIZE}}}").fullmatch


def discreet(line: str) -> str:
    """A request line, which may be cut, with nothing of its target but the path, and what it is reached at."""
    method, gap, rest = line.partition(" ")
    target, *version = rest.split(" ", 1)
    told = [_target(target, whole=bool(version)), *version]
    return f"{method}{gap}{' '.join(told)}"


def _target(target: str, *, whole: bool) -> str:
    if not target.startswith("/") and (found := _authority(target)) is not None:
        target = (found["scheme"] or "") + _named(found, cut=not whole) + target[found.end() :]
    found = _behind_path(target)
    if found is None or _treated(target[found.end() :]):
        return target
    told = blake2b(target[found.start() :].encode("utf-8", "surrogatepass"), digest_size=_SIZE).hexdigest()
    return f"{target[: found.end()]}#{told}"


def _named(found: re.Match[str], *, cut: bool) -> str:
    """The host of an authority; of one that is cut nothing, which may be what stands before the host."""
    if cut and found.end() == len(found.string):
        return ""
    return found["authority"].rpartition("@")[2]
