"""`probe capture`: watch everywhere at once while something happens, then judge it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

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
    print_objects,
)
from probe.commands.files import (
    DotOption,
    EventsOption,
    Files,
    HtmlOption,
    JunitOption,
    MarkdownOption,
    MermaidOption,
    MetricsOption,
    OpenOption,
    SarifOption,
    TuiOption,
    WriteOption,
)
from probe.commands.lab import complete_scenario
from probe.commands.masking import Speech, called, mask_option, speech_of
from probe.commands.options import (
    AnonymizeOption,
    AppServerOption,
    Format,
    FormatOrFolderOption,
    FromIpOption,
    IngressConfigOption,
    IngressLogOption,
    KeyOption,
    ProxyMode,
    ProxyModeOption,
    clients_option,
    end_with,
    split_output,
)
from probe.errors import UnavailableError, UsageError
from probe.output import note, progress

if TYPE_CHECKING:
    from analysis.ingress import IngressRecord
    from probe.anonymous.anonymizer import Anonymizer
    from probe.cluster.capturing import Asking
    from probe.playing.ask import Question
    from probe.sessions.session import Session

#: Requests of each kind that one capture may send.
MAX_COUNT = 500

#: The N of the smallest sample, 1/N (`daemonset.taps.sampling`, which needs numpy).
MOST_SAMPLED = 1 << 16
#: Packets on each node of which --trace-rules names the rules, and at most (`daemonset.node.nat_rules`).
DEFAULT_TRACED, MAX_TRACED = 64, 10_000


def capture(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="svc/NAME",
            help="What to watch on the cluster: svc/NAME, ingress/NAME or gateway/NAME; or a kind alone, with -l.",
            show_default=False,
        ),
    ] = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    selector: Annotated[
        str | None,
        typer.Option("-l", "--selector", metavar="KEY=VALUE", help="Choose by label instead of by name."),
    ] = None,
    node: Annotated[
        list[str] | None,
        typer.Option(
            "--node",
            metavar="NAME",
            help="Watch on this node only; what passes others is then inconclusive. May be given many times. "
            "[all nodes]",
        ),
    ] = None,
    all_nodes: Annotated[
        bool, typer.Option("--all-nodes", help="Watch on every node, which is what happens without --node.")
    ] = False,
    port: Annotated[
        list[int] | None,
        typer.Option(
            "--port",
            min=1,
            max=65535,
            metavar="N",
            help="Of the Service's ports only this one, on all sides of NAT; or one more, a balancer's own. May be "
            "given many times.",
        ),
    ] = None,
    debug_node: Annotated[
        list[str] | None,
        typer.Option(
            "--debug-node",
            metavar="NAME",
            help="Watch on this node by a single pod in the Service's namespace, as `kubectl debug node/NAME` would, "
            "instead of a DaemonSet: for who may create pods only. May be given many times.",
        ),
    ] = None,
    installed: InstalledOption = None,
    from_ip: FromIpOption = None,
    sample: Annotated[
        str | None,
        typer.Option(
            "--sample",
            metavar="1/N",
            help="Watch one TCP connection of N, the same ones on every node; N is a power of two. [1/1]",
        ),
    ] = None,
    image: ImageOption = None,
    privileged: Annotated[
        bool,
        typer.Option(
            "--privileged",
            help="Privileged containers instead of four capabilities, where SELinux or a policy hides pods "
            "from the agents.",
        ),
    ] = False,
    wait: Annotated[
        str | None,
        typer.Option(
            "--wait",
            metavar="TIME",
            help="How long agents' pods may take to run; what is late then is missing. [2m]",
        ),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Leave the agents' pods on the cluster; `probe cleanup` removes them."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be placed on the cluster, and end.")
    ] = False,
    lab: Annotated[
        str | None,
        typer.Option(
            "--lab",
            metavar="SCENARIO",
            autocompletion=complete_scenario,
            help="Capture in the lab, while it plays this scenario's requests.",
        ),
    ] = None,
    proxy_mode: ProxyModeOption = ProxyMode.IPTABLES,
    duration: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="How long to watch: 30s, 2m; in the lab, after the last request. [30s; in the lab 0s]",
        ),
    ] = None,
    send: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Ask this URL from the operator's side, each time with a token and from a known socket; in the lab "
            "instead of the scenario's requests, and from client1. The host is an address, or a place of the lab: "
            "http://balancer/debug/ip, http://node1/.",
        ),
    ] = None,
    count: Annotated[
        int,
        typer.Option(min=1, max=MAX_COUNT, metavar="N", help="How many requests --send sends, of each kind."),
    ] = 1,
    spoof: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HEADER[=VALUE]",
            help="Then ask again with this forged claim about the client, to see whether the application takes it "
            "for true: x-forwarded-for, forwarded, x-real-ip or any other field; proxy or proxy-v2, a PROXY header "
            "of our own; all: each known one alone. Without VALUE an address for documentation. May be given many "
            "times.",
        ),
    ] = None,
    trace_rules: Annotated[
        bool,
        typer.Option(
            "--trace-rules",
            help="Let the kernels name the very rules that replace addresses or drop packets: a table of our own marks "
            "packets that begin connections, and goes away with the agent whatever ends it. Of iptables-legacy, the "
            "rules' counters are read.",
        ),
    ] = False,
    trace_limit: Annotated[
        int | None,
        typer.Option(
            "--trace-limit",
            min=1,
            max=MAX_TRACED,
            metavar="N",
            help=f"Of how many packets on each node --trace-rules names the rules. [{DEFAULT_TRACED}]",
        ),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep the session in a new folder, for `probe analyze DIR` on any machine and `probe export DIR`.",
        ),
    ] = None,
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
    events: EventsOption = None,
    tui: TuiOption = False,
    output: FormatOrFolderOption = None,
) -> None:
    """Watch connections at every point on every node at once, and judge them.

    On a cluster, agents run in pods of a DaemonSet for as long as it takes, and everything is taken away again.
    Ctrl-C ends the capture and reports; a second one gives up.

    probe capture -n ingress-nginx svc/ingress-nginx-controller --duration 30s

    probe capture --lab proxy-v2-ok --send http://balancer/debug/ip --spoof all
    """
    from probe.live.screen import check_tui
    from probe.sessions.folder import check_new

    check_tui(tui)
    form, folder = split_output(output)
    if record is not None and folder is not None:
        raise UsageError(f"--record {record} and --output {folder} both name a folder; give one of them")
    record = record or folder
    check_new(record)
    seconds = duration_option(duration, "--duration")
    mask = mask_option(anonymize, key, dry_run=dry_run)
    speech = speech_of(mask)
    question = _question(send, count, spoof or [])
    ingress = _ingress(ingress_config or [], ingress_log or [], app_server, speech)
    if node and debug_node:
        raise UsageError("--debug-node names the nodes to watch on; leave --node out")
    if all_nodes and (node or debug_node):
        raise UsageError("--all-nodes watches on every node; leave out what names some")
    check_installed(
        installed,
        ("--debug-node", debug_node),
        ("--image", image),
        ("--privileged", privileged),
        ("--keep", keep),
        ("--dry-run", dry_run),
    )
    nodes = tuple(dict.fromkeys(debug_node or node or ()))
    chosen = _Chosen(
        target, namespace, selector, nodes, tuple(port or ()), image, keep, wait, debug=bool(debug_node)
    )
    chosen = chosen._replace(privileged=privileged, installed=installed)
    clients, part, trace = clients_option(from_ip), _sample(sample), _trace(trace_rules, trace_limit)
    files = Files(write, show, markdown, junit, html, mermaid, dot, sarif, metrics)
    if lab is None:
        watched = _Watched(seconds, record, clients, part, trace, events, tui, mask)
        _on_cluster(chosen, context, kubeconfig, watched, question, ingress, form, files, dry_run=dry_run)
        return
    if chosen != _Chosen() or context is not None or kubeconfig is not None or dry_run or all_nodes:
        raise UsageError("--lab plays a scenario and knows no cluster; leave out what is said of one")
    from probe.lab import load_scenario
    from probe.live.events import events_to
    from probe.live.screen import live_view
    from probe.playing.play import play
    from probe.render.wireshark.packets import Seen

    scenario = load_scenario(lab)
    prepared = files.prepare()
    if question is not None and question.target.scheme == "https":
        speech.progress("the server's certificate is not verified: only the way to it is asked about")
    heard = events is not None
    title = f"{scenario.name}, {proxy_mode} mode"
    with (
        events_to(events) as told,
        live_view(title, told.so_far if heard else None, tui=tui, words=called(mask)) as view,
    ):
        played = view.during(
            lambda: play(
                scenario,
                proxy_mode.value,
                question=question,
                ingress=ingress,
                record=record,
                linger=seconds or 0.0,
                clients=clients,
                sample=part,
                trace=trace,
                board=view.board,
                mask=mask,
                progress=speech.progress,
            )
        )
        told.end(played.report)
    if record is not None:
        _tables(record, played.session)
    end_with(played.report, form, prepared, Seen(played.session.recording, played.session.facts))


class _Chosen(NamedTuple):
    """What the command line says of a cluster's part in a capture."""

    target: str | None = None
    namespace: str | None = None
    selector: str | None = None
    nodes: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    image: str | None = None
    keep: bool = False
    wait: str | None = None
    debug: bool = False
    privileged: bool = False
    installed: str | None = None


class _Watched(NamedTuple):
    """What of all that happens is watched and told, for how long, and where it is kept."""

    seconds: float | None
    record: Path | None
    clients: tuple[str, ...]
    sample: int
    trace: int
    events: Path | None
    tui: bool
    mask: Anonymizer | None


def _on_cluster(
    chosen: _Chosen,
    context: str | None,
    kubeconfig: Path | None,
    watched: _Watched,
    question: Question | None,
    ingress: Callable[[], IngressRecord],
    output: Format,
    files: Files,
    *,
    dry_run: bool,
) -> None:
    """Capture on the cluster that the kubeconfig leads to, and end with the report."""
    from probe.cluster.selection import parse

    wait = duration_option(chosen.wait, "--wait")
    selection = parse(chosen.target, chosen.namespace or "default", label=chosen.selector)
    with connected(kubeconfig, context) as api:
        from probe.cluster.capturing import Told, Wish, prepare, run
        from probe.live.events import events_to
        from probe.live.screen import live_view
        from probe.render.wireshark.packets import Seen

        if chosen.namespace is None:
            selection = replace(selection, namespace=api.namespace)
        wish = Wish(selection, nodes=chosen.nodes, ports=chosen.ports, keep=chosen.keep, debug=chosen.debug)
        wish = replace(wish, record=watched.record, clients=watched.clients, sample=watched.sample)
        wish = replace(wish, trace=watched.trace, mask=watched.mask)
        wish = wish if watched.seconds is None else replace(wish, duration=watched.seconds)
        wish = replace(wish, privileged=chosen.privileged, installed=chosen.installed)
        wish = wish if wait is None else replace(wish, wait=wait)
        wish = wish if chosen.image is None else replace(wish, image=chosen.image)
        told = Told(*speech_of(watched.mask, api.context))
        prepared = prepare(api, wish, told)
        if dry_run:
            print_objects(prepared.objects, output)
            return
        ready = files.prepare()
        sessions: list[Session] = []
        heard, mask = watched.events is not None, watched.mask
        title = f"{selection}" if mask is not None else f"{selection}, context {api.context}"
        with (
            events_to(watched.events) as events,
            live_view(title, events.so_far if heard else None, tui=watched.tui, words=called(mask)) as view,
        ):
            report = view.during(
                lambda: run(
                    api,
                    wish,
                    prepared,
                    told,
                    asking=_asking(question, told.progress),
                    ingress=ingress,
                    keep=sessions.append,
                    board=view.board,
                )
            )
            events.end(report)
    if watched.record is not None:
        _tables(watched.record, sessions[0])
    end_with(report, output, ready, Seen(sessions[0].recording, sessions[0].facts))


def _tables(folder: Path, session: Session) -> None:
    """Put tables beside the streams that were recorded, and say where all of it is."""
    from probe.sessions.parquet import write_tables

    progress("writing tables")
    try:
        write_tables(folder, session)
    except UnavailableError as error:
        note(f"· kept in {folder}, without tables: {error}")
    else:
        note(f"· kept in {folder}")


def _sample(text: str | None) -> int:
    """N of "1/N". Raises UsageError where it is no power of two."""
    one, _, number = (text or "1/1").partition("/")
    size = int(number) if number.isascii() and number.isdecimal() and len(number) < 6 else 0
    if one != "1" or not 1 <= size <= MOST_SAMPLED or size & (size - 1):
        raise UsageError(
            f"--sample {text!a} is no share; give 1/N with N a power of two up to {MOST_SAMPLED}, such as 1/16"
        )
    return size


def _trace(wanted: bool, limit: int | None) -> int:
    """Of how many packets rules are traced. Raises UsageError."""
    if not wanted and limit is not None:
        raise UsageError("--trace-limit says how much --trace-rules traces; give --trace-rules too")
    return (limit or DEFAULT_TRACED) if wanted else 0


def _question(send: str | None, count: int, spoof: list[str]) -> Question | None:
    """What --send, --count and --spoof ask for together. Raises UsageError."""
    if send is None:
        for name, given in (("--spoof", bool(spoof)), ("--count", count != 1)):
            if given:
                raise UsageError(f"{name} says what --send is to send; give --send URL too")
        return None
    from probe.playing.ask import Question
    from probe.sending import check_spoof, parse_url

    check_spoof(spoof)
    return Question(parse_url(send), count, tuple(spoof))


def _asking(question: Question | None, progress: Callable[[str], None]) -> Asking | None:
    """How requests of our own are sent from here. Raises UsageError where the URL leads nowhere."""
    if question is None:
        return None
    from probe.sending.here import ask_from_here, orders_from_here

    orders = orders_from_here(question.target, question.count, question.spoof)
    return lambda take: ask_from_here(orders, progress, take)


def _ingress(
    configs: list[Path], logs: list[Path], app_server: str | None, speech: Speech
) -> Callable[[], IngressRecord]:
    """How to read what was given of ingresses once the capture is over. Raises UsageError where that cannot work."""
    from probe.ingress import read_afterwards

    return read_afterwards(configs, logs, speech.note, app_server)
