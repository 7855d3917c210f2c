"""Which receivers would take a header, by what was measured.

    header ─ classify ─▶ Kind ─ compare with the kinds of the measured cases ─▶ Reception, one a receiver

Rules of this file:

1. A receiver takes a header when nothing about it is wrong in its eyes. So taking a fault away never makes it
   refuse, and adding one never makes it accept, as long as the header goes the same way through it (the form).
   What was accepted with more out of the ordinary is accepted with less; what was refused with less is refused
   with more. Waiting says nothing beyond its own kind. Tests hold every measured case against every other one by
   this rule, and what is said of odd headers against the receivers themselves, as far as they are at hand.
2. The same goes for length: what was accepted is accepted when it is shorter, what was refused for its length is
   refused when it is longer. A refusal is for its length only where nothing longer of that form was accepted.
3. Whatever does not follow from these two was not measured, and is said to be so. In particular two things that
   are each accepted alone were not measured together.
4. Measurements were made over TCP: of headers in datagrams they say nothing.
5. A second header is payload to a receiver that took the first. What is known of it is what servers of HTTP
   answered to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Literal, NamedTuple

import msgspec

from analysis.receivers.classify import classify, cut_features, source
from analysis.receivers.kinds import Kind
from analysis.receivers.measured import ALONE, BEHIND, CASES, NOT_MEASURED, RECEIVERS, Case, Receiver

Outcome = Literal["accepted", "refused", "waits", "not measured"]

_ACCEPTED = frozenset("hio-?ATP")
_WAITS = frozenset("WL")


class Reception(msgspec.Struct, frozen=True):
    """What one receiver does with a header. `version` is the one that was measured."""

    name: str
    version: str
    verdict: Outcome
    detail: str


class _Measured(NamedTuple):
    kind: Kind
    case: Case


def receptions(
    data: bytes, *, first: bytes | None = None, cuts: tuple[int, ...] = (), datagram: bool = False
) -> tuple[Reception, ...]:
    """What each of the measured receivers does with the header that `data` begins with; payload may follow.

    `first` is the header in front of it, if there is one, `cuts` are the offsets at which its segments were cut.
    `datagram`: it came over UDP.
    """
    if datagram:
        return tuple(_unmeasured(receiver, "measured over TCP only") for receiver in RECEIVERS)
    kind = classify(data)
    if first is not None:
        return tuple(_second(place, data, before) for place, before in enumerate(receptions(first)))
    kind = kind._replace(features=kind.features | cut_features(kind, cuts))
    exact = next((known for known in _measured() if _is_case(known, data, kind)), None)
    told = source(data, kind)
    return tuple(_judge(place, kind, exact, told) for place in range(len(RECEIVERS)))


@lru_cache(maxsize=1)
def _measured() -> tuple[_Measured, ...]:
    return tuple(map(_known, CASES))


def _known(case: Case) -> _Measured:
    sent = case.header if case.name in ALONE else case.header + BEHIND
    kind = classify(sent)
    if kind.end < len(case.header) and kind.end:
        kind = _behind(case.header[kind.end :])
    return _Measured(kind._replace(features=kind.features | cut_features(kind, (case.cut,))), case)


def _behind(data: bytes) -> Kind:
    """The kind of a header that stands behind another one: its version is all that a server of HTTP sees of it."""
    form = classify(data).form
    return Kind(f"a second header, {form[: len('version 1')]}", frozenset(), 0, 0)


def _is_case(known: _Measured, data: bytes, kind: Kind) -> bool:
    """Whether `data` begins with exactly what was sent then."""
    same = known.kind[:3] == kind[:3] and known.kind.end == kind.end
    return same and kind.end > 0 and known.case.header == data[: kind.end]


def _judge(place: int, kind: Kind, exact: _Measured | None, told: tuple[str, str] | None) -> Reception:
    receiver = RECEIVERS[place]
    if exact and exact.case.codes[place] != NOT_MEASURED:
        basis = f"this very header ({exact.case.name})"
        return _reception(receiver, exact.case.codes[place], basis, kind, told, exact=True)
    cases = _cases(place, kind.form)
    passing = [known for known in cases if _outcome(known.case.codes[place]) == "accepted"]
    accepted = [known for known in passing if kind.within(known.kind)]
    refused = list(_refusals(place, kind, cases, max((known.kind.length for known in passing), default=-1)))
    waiting = [known for known in cases if _waits_alike(kind, known, known.case.codes[place])]
    if sum(map(bool, (accepted, refused, waiting))) != 1:
        return _unmeasured(receiver, f"no case tells about {kind.told()}")
    known = accepted or refused or waiting
    nearest = max(known, key=_size) if refused else min(known, key=_size)
    alike = [one for one in known if one.kind[:2] == nearest.kind[:2]]
    codes = {known.case.codes[place] for known in alike}
    code = nearest.case.codes[place] if len(codes) == 1 else _common(codes)
    return _reception(receiver, code, _basis(kind, nearest), kind, told)


def _cases(place: int, form: str) -> tuple[_Measured, ...]:
    """What was measured of a form at one receiver."""
    return _by_form(place).get(form, ())


@lru_cache(maxsize=len(RECEIVERS))
def _by_form(place: int) -> dict[str, tuple[_Measured, ...]]:
    found: dict[str, list[_Measured]] = {}
    for known in _measured():
        if known.case.codes[place] != NOT_MEASURED:
            found.setdefault(known.kind.form, []).append(known)
    return {form: tuple(cases) for form, cases in found.items()}


def _refusals(place: int, kind: Kind, cases: Iterable[_Measured], longest: int) -> Iterator[_Measured]:
    """The refused cases that have nothing that this header has not. `longest`: the longest that was accepted."""
    for known in cases:
        if _outcome(known.case.codes[place]) != "refused":
            continue
        length = 0 if known.kind.length <= longest else known.kind.length
        if known.kind._replace(length=length).within(kind):
            yield known


def _size(known: _Measured) -> tuple[int, int]:
    return len(known.kind.features), known.kind.length


def _basis(kind: Kind, nearest: _Measured) -> str:
    """What the answer rests on."""
    name, features = nearest.case.name, nearest.kind.features
    if features == kind.features:
        return f"its kind ({name})"
    if features < kind.features:
        return f"{', '.join(sorted(features)) or nearest.kind.told()}, alone ({name})"
    return f"more than that ({name})"


def _common(codes: set[str]) -> str:
    """One code for cases of one kind that were taken, or refused, in several ways."""
    if codes & _ACCEPTED or any(code[0] == "=" for code in codes):
        return "?"
    return "+".join(sorted(codes))


def _waits_alike(kind: Kind, known: _Measured, code: str) -> bool:
    """Whether a case of the very same kind was waited for. What that says of other kinds is nothing."""
    return _outcome(code) == "waits" and kind.features == known.kind.features and kind.within(known.kind)


def _outcome(code: str) -> Outcome:
    if code == NOT_MEASURED:
        return "not measured"
    if code in _WAITS:
        return "waits"
    return "accepted" if code[0] == "=" or code in _ACCEPTED else "refused"


def _second(place: int, data: bytes, before: Reception) -> Reception:
    """A header behind another one, of which `before` is what the receiver does with it."""
    receiver = RECEIVERS[place]
    if before.verdict == "refused":
        return Reception(
            receiver.name, receiver.version, "refused", f"with the header before it: {before.detail}"
        )
    kind = _behind(data)
    known = _cases(place, kind.form)
    if before.verdict != "accepted" or not known:
        return _unmeasured(receiver, f"no case tells about {kind.form}, behind that one")
    codes = {one.case.codes[place] for one in known}
    names = ", ".join(one.case.name for one in known)
    if codes == {"A"}:
        return _unmeasured(receiver, f"decodes the header before it and leaves this one as payload ({names})")
    return _reception(receiver, "+".join(sorted(codes)), f"two headers in a row ({names})", kind)


def _unmeasured(receiver: Receiver, why: str) -> Reception:
    return Reception(receiver.name, receiver.version, "not measured", why)


_WORDS = {
    "h": "takes the header's source for the client",
    "i": "takes the header's source address for the client's",
    "o": "goes by the connection's own address",
    "-": "takes no address from it",
    "?": "takes it",
    "A": "decodes it",
    "T": "decodes it, with an error about its TLVs",
    "P": "takes it for a connection without a header",
    "R": "closes with RST, without an answer",
    "F": "closes with FIN, without an answer",
    "W": "waits for more",
    "L": "reads without end",
    "4": "takes the header, answers HTTP 400 to what follows",
    "E": "raises an error",
}


def _reception(
    receiver: Receiver,
    code: str,
    basis: str,
    kind: Kind,
    told: tuple[str, str] | None = None,
    *,
    exact: bool = False,
) -> Reception:
    words = _words(code, told, exact)
    if code == "W" and (half := receiver.half[kind.form.startswith("version 2")]):
        words += f", {half}"
    return Reception(receiver.name, receiver.version, _outcome(code), f"{words}; measured: {basis}")


def _words(code: str, told: tuple[str, str] | None, exact: bool) -> str:
    """What a receiver does; `told` is the source as this header spells it."""
    if code[0] == "=":
        return (
            f"takes {code[1:]} for the client"
            if exact
            else f"takes it; it took {code[1:]} for the client there"
        )
    if told and code in {"h", "i"}:
        address = f"[{told[0]}]" if ":" in told[0] else told[0]
        return (
            f"takes {address}:{told[1]} for the client"
            if code == "h"
            else f"takes {told[0]} for the client's address"
        )
    return " or ".join(_WORDS[part] for part in code.split("+"))
