"""How agents are told to let the kernel name the rules that packets meet (`--trace-rules`)."""

from __future__ import annotations

from collections.abc import Iterable

from analysis.facts import Facts


def trace_arguments(limit: int, ports: Iterable[int], facts: Facts) -> list[str]:
    """Arguments for an agent; none where nothing is to be traced (`limit` 0).

    Health checks come for ever and would use up what is traced, so their ports are left out.
    """
    if not limit:
        return []
    checked = {service.health_check_node_port for service in facts.services}
    wanted = sorted(set(ports) - checked)
    return ["--trace-rules", str(limit), *(part for port in wanted for part in ("--trace-port", str(port)))]
