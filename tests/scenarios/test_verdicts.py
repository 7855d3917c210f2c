"""Every scenario of the lab, live, under the agents' eyes: the verdict is the one that its making calls for.

What is expected stands in the scenario's file and follows from how the lab is built; what the application
itself answered is held against it too. Then parts of the same recording are taken away at random: a verdict
may become inconclusive, never another.
"""

from __future__ import annotations

import random

import pytest

from analysis.analyze import analyze
from analysis.report import Verdict
from probe.errors import UnavailableError
from probe.lab import ProxyMode, list_scenarios, load_scenario
from probe.playing.play import Played, differences, play
from prove.degrading import lessened
from tests.analysis.test_truth_under_loss import assert_never_another

pytestmark = pytest.mark.lab

ROUNDS = 5

#: What an application makes of what it is told can only be learnt from the application.
ONLY_THE_APPLICATION_KNOWS = frozenset({"SIP501", "SIP504"})


def played(name: str, mode: ProxyMode) -> Played:
    try:
        return play(load_scenario(name), mode, progress=lambda _: None)
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
@pytest.mark.parametrize("name", list_scenarios())
def test_the_verdict_is_the_one_that_the_scenario_is_built_for(name: str, mode: ProxyMode) -> None:
    scene = played(name, mode)
    assert differences(scene) == []
    assert scene.report.capture.complete, scene.report.capture.reasons
    recording, facts, asked = scene.session.recording, scene.session.facts, scene.session.meta.asked
    # Attempts that may have been for any of several clients, of whom parts show fewer: the truth may be told, no more.
    truth = {
        (answer.result.source, answer.result.source_port): Verdict(
            scene.scenario.requests[answer.request].expect.verdict
        )
        for answer in scene.answers
        if scene.scenario.requests[answer.request].expect.untied
    }
    # A balancer whose header lies is believed where nothing is left to contradict it.
    lying = any("SIP313" in journey.findings for journey in scene.report.journeys)
    for seed in range(0 if lying else ROUNDS):
        degraded_recording = lessened(recording, random.Random(seed))
        partial = analyze(degraded_recording, facts, asked=asked, service=scene.report.service)
        assert_never_another(scene.report, partial, truth=truth)
    unasked = analyze(recording, facts, service=scene.report.service)
    assert_never_another(scene.report, unasked, unless=ONLY_THE_APPLICATION_KNOWS)
