"""The live view: a pure picture of a state, a board that gathers it, and a terminal that is left as it was."""

from __future__ import annotations

import re
import signal

import msgspec
import numpy as np
import pytest
from rich.cells import cell_len

from analysis.report import Severity, Verdict
from daemonset.observation import PACKET, Bye, Loss, Tap, TapKind, Taps, TcpFlag
from daemonset.wire import PacketRows
from probe.live.board import Board
from probe.render.live import Found, Seen, State, draw
from tests import hostile
from tests.cli.reports import blackholed_journey, lost_journey, preserved_journey, report
from tests.cli.terminal import Grid, OnTerminal
from tests.lab.here import why_not

values = pytest.mark.parametrize("value", hostile.VALUES.values(), ids=hostile.VALUES.keys())

STATE = State(
    "svc/web, context kind",
    doing="watching for 12 s more, Ctrl-C ends that",
    elapsed=83.0,
    places=(
        Seen("node1", taps=4, packets=1200, connections=57),
        Seen("node2", taps=3, packets=40, connections=2, dropped=7),
        Seen("node3", trouble="its pod is Pending"),
    ),
    connections=58,
    verdicts=((Verdict.PRESERVED, 12), (Verdict.LOST, 3), (Verdict.INCONCLUSIVE, 1)),
    blame="node2, kube-proxy masquerade",
    judged=3.4,
    findings=(
        Found("SIP101", Severity.ERROR, "kube-proxy replaced the client's address", 3),
        Found("SIP401", Severity.INFO, "The connection was forwarded to another node", 2),
    ),
)


def drawn(state: State, columns: int = 80, rows: int = 24, ascii_only: bool = False) -> list[str]:
    return [line.plain for line in draw(state, columns, rows, ascii_only=ascii_only)]


class TestThePicture:
    def test_it_tells_nodes_taps_drops_verdicts_and_findings(self) -> None:
        assert drawn(STATE, columns=100) == [
            "svc/web, context kind · 1:23",
            "NODE   TAPS  PACKETS  CONNECTIONS  DROPPED",
            "node3  × its pod is Pending",
            "node2     3       40            2        7",
            "node1     4    1,200           57        0",
            "3 places, 58 connections, 1,240 packets, 7 dropped by kernels, 1 place not watched",
            "× 3 lost  ‼ 1 not certain yet  ✓ 12 preserved  as of 3 s ago",
            "  lost at: node2, kube-proxy masquerade",
            "× SIP101  kube-proxy replaced the client's address (3 connections)",
            "· SIP401  The connection was forwarded to another node (2 connections)",
            "· watching for 12 s more, Ctrl-C ends that",
        ]

    @pytest.mark.parametrize("columns", [1, 7, 31, 32, 40, 79, 200])
    @pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 24])
    def test_it_never_outgrows_the_terminal(self, columns: int, rows: int) -> None:

        state = State(
            **{name: getattr(STATE, name) for name in ("title", "doing", "verdicts", "findings", "blame")},
            places=tuple(Seen(f"节点-{number}", dropped=number) for number in range(300)),
        )
        for ascii_only in (False, True):
            lines = drawn(state, columns, rows, ascii_only)
            assert len(lines) <= rows
            assert all(cell_len(line) <= columns for line in lines)

    def test_of_many_nodes_the_worst_are_shown_and_the_rest_counted(self) -> None:
        places = (*STATE.places, *(Seen(f"quiet{number:03}") for number in range(500)))
        state = State("svc/web", places=places, verdicts=STATE.verdicts, findings=STATE.findings)
        lines = drawn(state)
        assert lines[2].startswith("node3")
        assert lines[3].startswith("node2")
        assert any("more places, 503 places" in line for line in lines)
        assert len(lines) <= 24

    def test_a_low_terminal_keeps_the_verdicts_and_what_is_going_on(self) -> None:
        lines = drawn(STATE, rows=8)
        assert any("3 lost" in line for line in lines)
        assert lines[-1].startswith("· watching")

    def test_before_the_first_judgement_it_says_so(self) -> None:
        assert "no verdict yet" in drawn(State("svc/web"))
        assert "no verdict yet" in drawn(State("svc/web", verdicts=()))

    def test_ascii_is_all_there_where_the_terminal_takes_no_more(self) -> None:
        lines = drawn(STATE, ascii_only=True)
        assert all(line.isascii() for line in lines)
        assert "x 3 lost" in "\n".join(lines)

    @values
    def test_no_name_speaks_to_the_terminal(self, value: bytes) -> None:
        text = value[:3000].decode("utf-8", "surrogateescape")
        state = State(
            text,
            text,
            places=(Seen(text), Seen("n", trouble=text)),
            verdicts=((Verdict.LOST, 1),),
            blame=text,
            findings=(Found(text, Severity.ERROR, text, 1),),
        )
        lines = drawn(state)
        hostile.safe_text("\n".join(lines))
        assert len(lines) <= 24
        assert all(cell_len(line) < 81 for line in lines)


def syns(*numbers: int) -> PacketRows:
    table = np.zeros(len(numbers), PACKET.dtype())
    table["protocol"], table["flags"], table["seq"] = 6, TcpFlag.SYN, numbers
    return PacketRows(table.tobytes())


class TestTheBoard:
    def test_it_counts_what_comes_from_each_place(self) -> None:
        board = Board("svc/web", clock=lambda: 0.0)
        board.take("node1", Taps((Tap("node1", TapKind.NIC, "eth0"), Tap("node1", TapKind.BRIDGE, "cni0"))))
        board.take("node1", syns(1, 2, 2))
        board.take("node2", syns(2))
        board.take("node2", Loss(0, 9, 4))
        board.missing("node3", "its pod is Pending")
        state = board.state()
        assert state.places == (
            Seen("node1", taps=2, packets=3, connections=2),
            Seen("node2", packets=1, connections=1, dropped=4),
            Seen("node3", trouble="its pod is Pending"),
        )
        assert state.connections == 2, "a connection that two nodes saw is one"

    def test_an_agent_that_ends_early_is_trouble_and_one_that_was_asked_to_is_not(self) -> None:
        board = Board("svc/web")
        board.take("node1", Bye("lifeline cut"))
        board.over()
        board.take("node2", Bye("asked to"))
        assert [each.trouble for each in board.state().places] == ["its agent has ended", ""]

    def test_the_newest_finding_stands_first_and_counts_follow(self) -> None:
        board = Board("svc/web")
        assert board.judged(report(lost_journey("j1"))) == ""
        assert [(each.code, each.connections) for each in board.state().findings] == [("SIP101", 1)]
        board.judged(report(lost_journey("j1"), lost_journey("j2"), blackholed_journey()))
        newest, *older = board.state().findings
        assert newest.code == blackholed_journey().findings[0]
        assert [(each.code, each.connections) for each in older] == [("SIP101", 2)]
        assert dict(board.state().verdicts or ()) == {Verdict.LOST: 2, Verdict.BLACKHOLED: 1}
        assert board.state().blame == "node1, kube-proxy masquerade"

    def test_of_connections_that_are_young_nothing_is_told(self) -> None:
        young = preserved_journey()
        hops = tuple(msgspec.structs.replace(hop, time=4e9) for hop in young.hops)
        board = Board("svc/web")
        board.judged(report(msgspec.structs.replace(young, hops=hops, findings=("SIP101",))))
        assert board.state().verdicts == ()
        assert board.state().findings == ()


@pytest.mark.lab
@pytest.mark.skipif(bool(why_not()), reason=why_not())
class TestOnATerminal:
    def test_it_stands_there_meanwhile_and_is_gone_afterwards(self) -> None:
        running = OnTerminal("capture", "--lab", "cluster-remote", "--duration", "60s")
        running.until("3 lost")
        running.process.send_signal(signal.SIGINT)
        code, written = running.ending()
        assert code == 3
        for seen in ("NODE", "TAPS", "node2", "lost at: ", "node1, kube-proxy masquerade", "SIP101"):
            assert seen in written
        assert "\x1b[?25l" not in written, "the cursor is left alone"
        left = Grid().feed(written).text
        assert left.startswith("cluster-remote, iptables mode: Policy Cluster"), left
        assert "TAPS" not in left
        assert "Ctrl-C" not in left

    def test_health_that_is_watched_is_shown_the_same_way(self) -> None:
        running = OnTerminal("health", "--lab", "hc-ok", "--watch", "--duration", "60s")
        running.until("watching for")
        running.process.send_signal(signal.SIGINT)
        code, written = running.ending()
        assert code == 0
        for seen in ("NODE", "TAPS", "node2", "hc-ok, iptables mode"):
            assert seen in written
        left = Grid().feed(written).text
        assert "TAPS" not in left
        assert "watching for" not in left
        assert "Health" in left, left

    def test_a_narrow_terminal_without_colour(self) -> None:
        running = OnTerminal(
            "capture", "--lab", "cluster-remote", "--duration", "60s", "-o", "json", columns=40, NO_COLOR="1"
        )
        running.until("3 lost")
        running.process.send_signal(signal.SIGINT)
        code, written = running.ending()
        assert code == 3
        assert Grid().feed(written).text.startswith("{\n")
        assert not re.search(r"\x1b\[[0-9;]*[34][0-7]m", written)

    def test_two_interruptions_give_up_and_leave_nothing(self) -> None:
        running = OnTerminal("capture", "--lab", "cluster-remote", "--duration", "60s")
        running.until("watching for")
        running.process.send_signal(signal.SIGINT)
        running.until("collecting what the agents saw")
        running.process.send_signal(signal.SIGINT)
        code, written = running.ending()
        assert code in {3, 130}, "130, unless it was over before"
        assert "TAPS" not in Grid().feed(written).text

    def test_where_there_is_no_room_there_are_lines_of_progress(self) -> None:
        code, written = OnTerminal("capture", "--lab", "cluster-remote", rows=5).ending()
        assert code == 3
        assert "TAPS" not in written
        assert "· sending" in written
