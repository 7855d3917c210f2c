"""Clusters for tests: a double of the API server, with the lab behind it or with scripted agents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from probe.lab import Lab, load_scenario
from tests.cli.helpers import Ending, ended, start
from tests.cluster.agents import nodes, scripted_agent, web_service
from tests.cluster.double import Double, Faults
from tests.cluster.double.double import namespaces
from tests.cluster.double.execution import LabExecutor, ScriptExecutor
from tests.cluster.running import Running
from tests.lab.here import why_not


@pytest.fixture(autouse=True)
def lab_or_skip(request: pytest.FixtureRequest) -> None:
    """Tests marked `lab` need namespaces and tools."""
    if request.node.get_closest_marker("lab") and why_not():
        pytest.skip(why_not())


class Stage:
    """A double, and the lab behind it where there is one."""

    def __init__(self, double: Double, folder: Path, lab: Lab | None = None) -> None:
        self.double = double
        self.kubeconfig = double.kubeconfig(folder / "kubeconfig")
        self._lab = lab
        self._running: list[Running] = []

    @property
    def lab(self) -> Lab:
        assert self._lab is not None, "this stage has no lab"
        return self._lab

    @property
    def faults(self) -> Faults:
        return self.double.faults

    def start(self, *arguments: str | Path) -> Running:
        """Start `probe ARGUMENTS… --kubeconfig …`."""
        running = Running(self.kubeconfig, *arguments)
        self._running.append(running)
        return running

    def start_plain(self, *arguments: str | Path) -> Ending:
        """Run a command that knows no cluster to its end."""
        return ended(start(*arguments))

    def close(self) -> None:
        for running in self._running:
            if not running.over:
                running.process.kill()
                running.ending()


@pytest.fixture
def lab_stage(tmp_path: Path) -> Iterator[Callable[[str], Stage]]:
    """Stages with a lab behind them, by the name of its scenario."""
    with ExitStack() as stack:

        def build(scenario: str) -> Stage:
            lab = stack.enter_context(Lab.start(load_scenario(scenario)))
            objects = [*namespaces("default", "kube-system"), *lab.objects()["items"]]
            double = stack.enter_context(Double(objects, LabExecutor(lab)))
            stage = Stage(double, tmp_path, lab)
            stack.callback(stage.close)
            return stage

        yield build


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Three nodes and a Service; agents are scripts that see nothing."""
    objects = [*namespaces("default", "kube-system"), *nodes("node1", "node2", "node3"), *web_service()]
    faults = Faults()
    with Double(objects, ScriptExecutor(scripted_agent(faults)), faults) as double:
        stage = Stage(double, tmp_path)
        try:
            yield stage
        finally:
            stage.close()
