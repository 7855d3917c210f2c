"""What commands are given to judge: a recorded session, or captures of anyone's making with what belongs to them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.health.own import NONE_OWN, OwnChecks
from analysis.ingress import IngressRecord
from probe.commands.options import quiet_progress
from probe.errors import UnavailableError, UsageError, os_error
from probe.output import note

if TYPE_CHECKING:
    from analysis.asked import Asked
    from analysis.facts import Facts
    from analysis.health.changes import EndpointChange
    from analysis.recording import Recording
    from probe.sessions.session import Session


_OBJECTS = "give what `kubectl get nodes,pods,services,endpointslices -A -o json` prints"

_NO_INGRESS = IngressRecord()


@dataclass(frozen=True, slots=True)
class Recorded:
    """What there is to judge."""

    recording: Recording
    facts: Facts
    asked: tuple[Asked, ...] = ()
    ingress: IngressRecord = _NO_INGRESS
    service: str | None = None
    title: str | None = None
    clients: tuple[str, ...] = ()
    changes: tuple[EndpointChange, ...] = ()
    own: OwnChecks = NONE_OWN


def recorded(sessions: list[Path], taps: list[str], objects: Path | None, tables: list[str]) -> Recorded:
    """The sessions in folders as one, or what capture files hold. Raises ProbeError."""
    if sessions and (taps or tables):
        raise UsageError(
            "--tap and --conntrack are for captures without a recorded session; give either them or the DIR"
        )
    if sessions:
        kept = _from_sessions(sessions, objects)
        meta = kept.meta
        return Recorded(
            kept.recording,
            kept.facts,
            meta.asked,
            meta.ingress,
            meta.service,
            meta.title,
            meta.clients,
            meta.changes,
            meta.own,
        )
    return Recorded(*_from_files(taps, tables, objects))


def table_files(tables: list[str]) -> list[Path]:
    """The files of `--conntrack`. Raises UsageError."""
    from probe.agents.captures import parse_table

    return [parse_table(text).path for text in tables]


def with_balancers(facts: Facts, named: list[str]) -> Facts:
    """The facts, with what the operator knows of load balancers. Raises UsageError."""
    from ipaddress import ip_network

    import msgspec

    for text in named:
        try:
            ip_network(text, strict=False)
        except ValueError as error:
            raise UsageError(f"--balancer {text!a} is no address; give ADDRESS or ADDRESS/LENGTH") from error
    return msgspec.structs.replace(facts, balancers=(*facts.balancers, *named)) if named else facts


def _from_sessions(paths: list[Path], objects: Path | None) -> Session:
    from probe.sessions.together import load_together

    return load_together(paths, note, read_objects(objects) if objects is not None else None)


def _from_files(taps: list[str], tables: list[str], objects: Path | None) -> tuple[Recording, Facts]:
    from probe.agents import captures

    tap_files = [captures.parse_tap(text) for text in taps]
    table_files = [captures.parse_table(text) for text in tables]
    captures.check_files(tap_files)
    facts = read_objects(objects)
    captures.check_nodes(tap_files, table_files, [node.name for node in facts.nodes])
    return captures.read_captures(tap_files, table_files, quiet_progress()), facts


def read_objects(path: Path | None) -> Facts:
    """Facts from a file of Kubernetes objects; unknown facts without one. Raises ProbeError."""
    import msgspec

    from analysis.facts import Facts
    from probe.objects import ObjectsError, facts_from_objects

    if path is None:
        return Facts(known=False)
    try:
        return facts_from_objects(msgspec.json.decode(path.read_bytes()))
    except OSError as error:
        raise os_error(error, f"read {path}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON ({error}); {_OBJECTS}") from error
    except ObjectsError as error:
        raise UsageError(f"{path}: {error}; {_OBJECTS}") from error


def known_service(service: str | None, facts: Facts) -> str | None:
    """The Service's key. Raises UnavailableError where the objects do not have it."""
    if service is None:
        return None
    name = service.removeprefix("svc/").removeprefix("service/")
    key = name if "/" in name else f"default/{name}"
    known = sorted(each.key for each in facts.services)
    if key not in known:
        if not facts.known:
            raise UsageError(
                f"--service {service} needs the cluster's objects; give them with --objects FILE"
            )
        shown = ", ".join(known[:8]) + (" and more" if len(known) > 8 else "")
        raise UnavailableError(
            f"there is no Service {key}; {f'give one of {shown}' if shown else 'the objects have none'}"
        )
    return key
