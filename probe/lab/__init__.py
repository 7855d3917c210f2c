"""The lab: a cluster of network namespaces with the real kernel's NAT and real servers."""

from subprocess import DEVNULL, PIPE

from probe.lab.errands import Result
from probe.lab.errors import LabError, ScenarioError
from probe.lab.lab import Answer, Lab, LabProcess, Place
from probe.lab.plan import ProxyMode
from probe.lab.scenario import Scenario, list_scenarios, load_scenario

__all__ = [
    "DEVNULL",
    "PIPE",
    "Answer",
    "Lab",
    "LabError",
    "LabProcess",
    "Place",
    "ProxyMode",
    "Result",
    "Scenario",
    "ScenarioError",
    "list_scenarios",
    "load_scenario",
]
