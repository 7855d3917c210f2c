"""`probe analyze`: judge a recorded session, or captures that somebody else made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from probe.commands.options import (
    AppServerOption,
    Format,
    IngressConfigOption,
    IngressLogOption,
    OutputOption,
    end_with,
    quiet_progress,
)
from probe.errors import UnavailableError, UsageError, os_error
from probe.output import note

if TYPE_CHECKING:
    from analysis.asked import Asked
    from analysis.facts import Facts
    from analysis.recording import Recording
    from probe.session import Session


def analyze(
    session: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="The folder of a recorded session.")
    ] = None,
    tap: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND:NODE/INTERFACE=FILE",
            help="A pcap or pcapng file and where it was captured; KIND is client, lb, nic, bridge, veth, "
            "tunnel or pod (pod:NODE/NAME=FILE). May be given many times.",
        ),
    ] = None,
    objects: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The cluster, from: kubectl get nodes,pods,services,endpointslices -A -o json",
        ),
    ] = None,
    conntrack: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NODE=FILE", help="What `conntrack -L` printed on a node. May be given many times."
        ),
    ] = None,
    service: Annotated[
        str | None, typer.Option(metavar="NAMESPACE/NAME", help="Judge only connections to this Service.")
    ] = None,
    balancer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS|PREFIX",
            help="An address that is a load balancer's, where the objects do not say so. May be given many times.",
        ),
    ] = None,
    ingress_config: IngressConfigOption = None,
    ingress_log: IngressLogOption = None,
    app_server: AppServerOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Judge a recorded session, or pcap files of anyone's making.

    probe analyze session/

    probe analyze --tap client:me/eth0=client.pcap --tap nic:node1/eth0=node1.pcap --objects objects.json
    """
    if session is not None and (tap or objects or conntrack):
        raise UsageError("give either the DIR of a recorded session or --tap files, not both")
    if session is None and not tap:
        raise UsageError(
            "nothing to analyze; give the DIR of a recorded session, or captures as "
            "--tap KIND:NODE/INTERFACE=FILE; see 'probe analyze --help'"
        )
    from probe.ingress import read_ingress

    ingress = read_ingress(ingress_config or [], ingress_log or [], note, app_server)
    title: str | None = None
    asked: tuple[Asked, ...] = ()
    if session is not None:
        recorded = _from_session(session)
        recording, facts, asked = recorded.recording, recorded.facts, recorded.meta.asked
        title, service = recorded.meta.title, service or recorded.meta.service
        ingress = recorded.meta.ingress.plus(ingress)
    else:
        recording, facts = _from_files(tap or [], conntrack or [], objects)
    service = _known_service(service, facts)
    facts = _with_balancers(facts, balancer or [])
    from analysis.analyze import analyze as judge

    report = judge(recording, facts, asked=asked, ingress=ingress, service=service, title=title)
    end_with(report, output)


def _with_balancers(facts: Facts, named: list[str]) -> Facts:
    """The facts, with what the operator knows of load balancers. Raises UsageError."""
    from ipaddress import ip_network

    import msgspec

    for text in named:
        try:
            ip_network(text, strict=False)
        except ValueError as error:
            raise UsageError(f"--balancer {text!a}: {error}; give an address or a prefix") from error
    return msgspec.structs.replace(facts, balancers=(*facts.balancers, *named)) if named else facts


def _from_session(path: Path) -> Session:
    from probe.session import load

    return load(path)


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
        raise UsageError(
            f"{path} is not JSON ({error}); it should be what `kubectl get "
            "nodes,pods,services,endpointslices -A -o json` prints"
        ) from error
    except ObjectsError as error:
        raise UsageError(f"{path}: {error}") from error


def _known_service(service: str | None, facts: Facts) -> str | None:
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
        raise UnavailableError(f"there is no Service {key}; the objects have {shown or 'none at all'}")
    return key
