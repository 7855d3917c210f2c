"""`probe health`: whether health checks keep clients from nodes that cannot serve them, and how fast."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, NoReturn

import typer

from probe.commands.cluster import (
    ContextOption,
    ImageOption,
    InstalledOption,
    KubeconfigOption,
    NamespaceOption,
    check_installed,
    connected,
    duration_option,
)
from probe.commands.lab import complete_scenario
from probe.commands.options import (
    AnonymizeOption,
    BalancerOption,
    Format,
    KeyOption,
    OutputOption,
    ProxyMode,
    ProxyModeOption,
    key_option,
)
from probe.errors import UsageError
from probe.output import note, progress, put

#: Seconds for which --watch watches.
WATCHED = 300.0

if TYPE_CHECKING:
    from probe.health.report import HealthReport


def health(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="svc/NAME|DIR",
            help="svc/NAME, ingress/NAME or gateway/NAME on the cluster; or the folder of a recorded session.",
            show_default=False,
        ),
    ] = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    node: Annotated[
        list[str] | None,
        typer.Option(
            "--node", metavar="NAME", help="Ask this node only. May be given many times. [all nodes]"
        ),
    ] = None,
    debug_node: Annotated[
        list[str] | None,
        typer.Option(
            "--debug-node",
            metavar="NAME",
            help="Ask this node by a single pod in the Service's namespace instead of a DaemonSet: for who may create "
            "pods only. May be given many times.",
        ),
    ] = None,
    installed: InstalledOption = None,
    from_here: Annotated[
        bool,
        typer.Option(
            "--from-here",
            help="Place no agents: ask from the operator's side alone, where that is reachable.",
        ),
    ] = False,
    image: ImageOption = None,
    settle: Annotated[
        str | None,
        typer.Option(
            "--settle",
            metavar="TIME",
            help="For how long what is wrong must last before it is called so: nodes follow the API server a while "
            "later. [10s; in the lab 0.5s]",
        ),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Then go on asking, and watch endpoints and connections, as through a rollout or a drain: who is sent "
            "where, for how long after the node said no, and what is lost. Ctrl-C ends it and reports.",
        ),
    ] = False,
    duration: Annotated[
        str | None,
        typer.Option(
            "--duration",
            metavar="TIME",
            help="How long --watch watches: 90s, 10m; in the lab, after the last request. [5m; in the lab 0s]",
        ),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            "--record",
            metavar="DIR",
            help="Keep what was asked, and what --watch saw, in a new folder, for `probe health DIR`.",
        ),
    ] = None,
    lab: Annotated[
        str | None,
        typer.Option(
            "--lab",
            metavar="SCENARIO",
            autocompletion=complete_scenario,
            help="Ask in the lab, and watch while it plays this scenario's requests.",
        ),
    ] = None,
    proxy_mode: ProxyModeOption = ProxyMode.IPTABLES,
    tap: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND:NODE/INTERFACE=FILE",
            help="A pcap or pcapng file and where it was captured, as for `probe analyze`. May be given many times.",
        ),
    ] = None,
    objects: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The cluster, as `kubectl get nodes,pods,services,endpointslices -A -o json` prints it.",
        ),
    ] = None,
    watched: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Events of a watch of EndpointSlices meanwhile, as JSON lines with the time of each as `t`.",
        ),
    ] = None,
    service: Annotated[
        str | None, typer.Option(metavar="NAMESPACE/NAME", help="The Service whose health checks are judged.")
    ] = None,
    balancer: BalancerOption = None,
    anonymize: AnonymizeOption = False,
    key: KeyOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Say whether health checks keep clients from nodes that cannot serve them, and how long that took.

    With svc/NAME, each node's health port is asked: by the node itself, by a neighbour, and from here.

    Exit codes: 0 all well · 3 a finding of level error · 4 not enough is known.

    probe health -n ingress-nginx svc/ingress-nginx-controller

    probe health session/

    probe health --tap nic:node1/eth0=node1.pcap --objects objects.json
    """
    from probe.cluster.selection import means_object

    files = bool(tap) or objects is not None or watched is not None or service is not None
    there = target is not None and means_object(target) and not Path(target).exists()
    if debug_node and (node or from_here):
        raise UsageError(
            "--debug-node names the nodes and places pods there; leave --node and --from-here out"
        )
    check_installed(installed, ("--debug-node", debug_node), ("--from-here", from_here), ("--image", image))
    nodes = tuple(dict.fromkeys(debug_node or node or ()))
    chosen = Chosen(namespace, context, kubeconfig, nodes, image, from_here, bool(debug_node), installed)
    secret = key_option(anonymize, key)
    if (there or lab is not None) and (files or balancer or secret is not None):
        raise UsageError(
            "--tap, --objects, --watched, --service, --balancer and --anonymize are for what was recorded; "
            "leave them out"
        )
    seconds = duration_option(settle, "--settle")
    watching = Watching(watch, duration_option(duration, "--duration"), record)
    if not watch and watching.seconds is not None:
        raise UsageError("--duration says how long --watch watches; give --watch too")
    if record is not None and not (there or lab is not None):
        raise UsageError(
            "--record keeps what is asked; of what was recorded there is a folder already; leave it out"
        )
    if watch and (from_here or not (there or lab is not None)):
        raise UsageError(
            "--watch needs agents to watch with; give svc/NAME without --from-here, or --lab SCENARIO"
        )
    if record is not None:
        from probe.sessions.folder import check_new

        check_new(record)
    if lab is not None:
        if target is not None or chosen != Chosen():
            raise UsageError("--lab plays a scenario and knows no cluster; leave out what is said of one")
        end_with(in_lab(lab, proxy_mode, seconds, watching), output)
    if target is not None and there:
        end_with(on_cluster(target, chosen, seconds, watching), output)
    if chosen != Chosen() or seconds is not None:
        raise UsageError("nothing is asked of a cluster without svc/NAME; see 'probe health --help'")
    end_with(of_record(target, tap or [], objects, watched, service, balancer or [], secret), output)


class Watching(NamedTuple):
    """Whether to go on watching, how long, and where it is kept."""

    wanted: bool = False
    seconds: float | None = None
    record: Path | None = None


class Chosen(NamedTuple):
    """What the command line says of a cluster's part."""

    namespace: str | None = None
    context: str | None = None
    kubeconfig: Path | None = None
    nodes: tuple[str, ...] = ()
    image: str | None = None
    from_here: bool = False
    debug: bool = False
    installed: str | None = None


def on_cluster(target: str, chosen: Chosen, settle: float | None, watching: Watching) -> HealthReport:
    """Ask on the cluster that the kubeconfig leads to. Raises ProbeError."""
    from probe.cluster.selection import parse
    from probe.health.report import with_asking

    selection = parse(target, chosen.namespace or "default")
    with connected(chosen.kubeconfig, chosen.context) as api:
        from probe.cluster.capturing import Told, Wish, prepare
        from probe.health import on_cluster as there
        from probe.health.rounds import SETTLE

        if chosen.namespace is None:
            selection = replace(selection, namespace=api.namespace)
        wish = Wish(selection, nodes=chosen.nodes, debug=chosen.debug, installed=chosen.installed)
        wish = wish if chosen.image is None else replace(wish, image=chosen.image)
        told = Told(progress, note)
        prepared = prepare(api, wish, told)
        seconds = SETTLE if settle is None else settle
        if watching.wanted:
            from probe.health.watch_cluster import watch
            from probe.live.screen import live_view

            duration = WATCHED if watching.seconds is None else watching.seconds
            wish = replace(wish, duration=duration, record=watching.record)
            with live_view(f"{selection}, context {api.context}") as view:
                return watch(api, wish, prepared, told, settle=seconds, board=view.board)
        if chosen.from_here:
            asked = there.run_from_here(api, wish, prepared, told, settle=seconds)
        else:
            asked = there.run(api, wish, prepared, told, settle=seconds)
        if watching.record is not None:
            from probe.health.keeping import keep_asked

            keep_asked(watching.record, f"{selection}, context {api.context}", prepared, asked)
            note(f"· kept in {watching.record}")
    return with_asking(asked.asking, asked.codes)


def in_lab(name: str, proxy_mode: ProxyMode, settle: float | None, watching: Watching) -> HealthReport:
    """Ask in the lab, and watch what becomes of its requests. Raises ProbeError."""
    from probe.health.in_lab import SETTLE_IN_LAB, AskedInLab, WatchedInLab
    from probe.health.report import about_health, with_asking
    from probe.lab import load_scenario
    from probe.live.screen import live_view
    from probe.playing.play import play

    seconds = SETTLE_IN_LAB if settle is None else settle
    asking = WatchedInLab(progress, note, seconds) if watching.wanted else AskedInLab(progress, seconds)
    with live_view(f"{name}, {proxy_mode} mode") if watching.wanted else nullcontext() as view:
        played = play(
            load_scenario(name),
            proxy_mode.value,
            beside=asking,
            record=watching.record,
            linger=watching.seconds or 0.0,
            board=view.board if view is not None else None,
            progress=progress,
        )
    watched = about_health(played.report)
    return watched if asking.asked is None else with_asking(asking.asked.asking, asking.asked.codes, watched)


def of_record(
    target: str | None,
    tap: list[str],
    objects: Path | None,
    watched: Path | None,
    service: str | None,
    balancer: list[str],
    secret: bytes | None = None,
) -> HealthReport:
    """Judge what was recorded. Raises ProbeError."""
    if target is None and not tap:
        raise UsageError(
            "nothing to judge; give svc/NAME, the DIR of a recorded session, or captures as "
            "--tap KIND:NODE/INTERFACE=FILE; see 'probe health --help'"
        )
    from analysis.analyze import analyze as judge
    from probe.commands import inputs
    from probe.health.report import with_kept
    from probe.sessions.room import room

    recorded = inputs.recorded([Path(target)] if target else [], tap, objects, [])
    if watched is not None:
        from probe.health.endpoint_changes import read_changes

        recorded = replace(recorded, changes=read_changes(watched))
    wanted = inputs.known_service(service or recorded.service, recorded.facts)
    recorded = replace(recorded, facts=inputs.with_balancers(recorded.facts, balancer))
    if secret is not None:
        from probe.agents.captures import parse_tap
        from probe.anonymous.given import anonymous

        recorded = anonymous(recorded, secret, captures=[parse_tap(text) for text in tap])
    report = judge(
        recorded.recording,
        recorded.facts,
        asked=recorded.asked,
        service=wanted,
        changes=recorded.changes,
        own=recorded.own,
        room=room(),
    )
    return with_kept(report, recorded.own.asked)


def end_with(report: HealthReport, output: Format) -> NoReturn:
    """Print the answer and exit with its code."""
    if output.for_people:
        from probe.render.health_answer import to_text

        put(to_text(report, sys.stdout, wide=output is Format.WIDE))
    else:
        from probe.render.machines import machine

        write = {Format.JSON: machine.to_json, Format.JSONL: machine.to_line, Format.YAML: machine.to_yaml}
        put(write[output](report))
    raise typer.Exit(report.exit_code)
