"""Nothing left in the kernel: an agent that traces rules is killed by SIGKILL, and its own rules have to be gone."""

from __future__ import annotations

import json
import random
import select
import shutil
import subprocess

from daemonset.node.nft_table import TABLE
from prove.row import Row
from tests.agent.scene import Scene, scene, why_not

#: Seconds within which an agent begins, about.
_MOST = 3.0


def row(times: int, again: str) -> Row:
    """One row for so many agents, each in a network namespace that goes on without it."""
    what = "kill -9 of an agent that traces rules"
    if reason := why_not() or ("" if shutil.which("nft") else "nft is not installed"):
        return Row(what, 0, 0, again=again, skipped=reason)
    placed, wrong = 0, []
    for number in range(times):
        before, after = _once(random.Random(f"rules/{number}"))  # noqa: S311 - to be made again
        placed += before
        if after:
            wrong.append(f"time {number}: the table {TABLE} is still there")
    return Row(what, times, len(wrong), f"{placed} times with its rules in place", again, tuple(wrong[:3]))


def _once(dice: random.Random) -> tuple[bool, bool]:
    """Whether the agent's rules were there when it was killed, and whether they are afterwards."""
    arguments = ("--node", "n1", "--trace-rules", "64", "--trace-port", "80")
    with scene() as node:
        node.ip("link set lo up")
        agent = node.module("daemonset.agent", *arguments, stdout=subprocess.PIPE)
        assert agent.stdout is not None
        with agent.stdout:
            # Half of them at any moment of the beginning, half once their rules are there.
            if dice.random() < 0.5:
                select.select([], [], [], dice.uniform(0, _MOST))
            else:
                _await_rules(node, agent)
            before = _placed(node)
            agent.kill()
        agent.wait()
        return before, _placed(node)


def _await_rules(node: Scene, agent: subprocess.Popen[bytes]) -> None:
    while not _placed(node) and agent.poll() is None:
        select.select([], [], [], 0.05)


def _placed(node: Scene) -> bool:
    listed = json.loads(node.run("nft", "-j", "list", "tables"))["nftables"]
    return any(each.get("table", {}).get("name") == TABLE for each in listed)
