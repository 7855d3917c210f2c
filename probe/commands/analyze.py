"""`probe analyze`: judge a recorded session, or captures that somebody else made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from probe.commands.files import (
    DotOption,
    Files,
    HtmlOption,
    JunitOption,
    MarkdownOption,
    MermaidOption,
    MetricsOption,
    OpenOption,
    SarifOption,
    WriteOption,
)
from probe.commands.options import (
    AnonymizeOption,
    AppServerOption,
    BalancerOption,
    Format,
    FromIpOption,
    IngressConfigOption,
    IngressLogOption,
    KeyOption,
    OutputOption,
    clients_option,
    end_with,
    key_option,
)
from probe.errors import UsageError
from probe.output import note


def analyze(
    sessions: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="DIR",
            help="The folder of a recorded session; or several of different nodes, to be judged together.",
            show_default=False,
        ),
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
            help="The cluster, as `kubectl get nodes,pods,services,endpointslices -A -o json` prints it. With DIR, in "
            "place of what the session says of it.",
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
    balancer: BalancerOption = None,
    from_ip: FromIpOption = None,
    ingress_config: IngressConfigOption = None,
    ingress_log: IngressLogOption = None,
    app_server: AppServerOption = None,
    anonymize: AnonymizeOption = False,
    key: KeyOption = None,
    write: WriteOption = None,
    show: OpenOption = False,
    markdown: MarkdownOption = None,
    junit: JunitOption = None,
    html: HtmlOption = None,
    mermaid: MermaidOption = None,
    dot: DotOption = None,
    sarif: SarifOption = None,
    metrics: MetricsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Judge a recorded session, or pcap files of anyone's making.

    probe analyze session/

    probe analyze node1/ node2/ --objects objects.json

    probe analyze --tap nic:node1/eth0=node1.pcap --objects objects.json

    probe analyze session/ --anonymize --html for-the-ticket.html
    """
    if not sessions and not tap:
        raise UsageError(
            "nothing to analyze; give the DIR of a recorded session, or captures as "
            "--tap KIND:NODE/INTERFACE=FILE; see 'probe analyze --help'"
        )
    from probe.agents.captures import parse_tap
    from probe.commands import inputs
    from probe.ingress import read_ingress
    from probe.render.wireshark.packets import Seen

    secret = key_option(anonymize, key)
    captures = [parse_tap(text) for text in tap or []]
    files = Files(write, show, markdown, junit, html, mermaid, dot, sarif, metrics).prepare(
        [capture.path for capture in captures]
    )
    ingress = read_ingress(ingress_config or [], ingress_log or [], note, app_server)
    clients = clients_option(from_ip)
    given = inputs.recorded(sessions or [], tap or [], objects, conntrack or [])
    service = inputs.known_service(service or given.service, given.facts)
    given = replace(
        given,
        facts=inputs.with_balancers(given.facts, balancer or []),
        ingress=given.ingress.plus(ingress),
        clients=clients or given.clients,
    )
    copied = captures
    if secret is not None:
        from probe.anonymous.given import anonymous

        given, copied = (
            anonymous(given, secret, captures=captures, files=inputs.table_files(conntrack or [])),
            [],
        )
    from analysis.analyze import analyze as judge
    from analysis.chain.clients import Clients
    from probe.sessions.room import room

    report = judge(
        given.recording,
        given.facts,
        asked=given.asked,
        ingress=given.ingress,
        service=service,
        title=given.title,
        clients=Clients.of(given.clients),
        changes=given.changes,
        own=given.own,
        room=room(),
    )
    end_with(report, output, files, Seen(given.recording, given.facts, copied))
