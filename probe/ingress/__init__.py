"""What was given of ingresses: configurations and logs, from files to the values that the analysis asks.

The way of a configuration: `config` finds out what it is; `nginx_grammar`, `nginx_files`, `nginx_config` read nginx's,
`haproxy_grammar`, `haproxy_config` HAProxy's, `objects` Kubernetes'. The way of a log: `lines` takes prefixes off,
`log_nginx`, `log_json`, `log_haproxy`, `log_others` read each server's, `log` puts them together, `settle` adds what
lines and configurations say of each other. Only `config` and `log` open files, and `nginx_files` what is included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from analysis.ingress import Application, Ingress, IngressRecord
from probe.errors import ProbeError, UsageError
from probe.ingress.application import read_application
from probe.ingress.config import parse_config, read_config
from probe.ingress.log import Log, check_log, read_log
from probe.ingress.nginx_files import in_parts
from probe.ingress.settle import settled


def read_ingress(
    configs: Sequence[Path],
    logs: Sequence[Path],
    note: Callable[[str], None] = lambda _: None,
    application: str | None = None,
) -> IngressRecord:
    """All of them as one value; what could not be used is told by `note` too. Raises ProbeError."""
    _check_once(configs, logs)
    server = read_application(application) if application is not None else None
    ingresses = [each for path in configs for each in read_config(path)]
    return _record(ingresses, [read_log(path) for path in logs], note, server)


def ingress_of(text: str, name: str) -> IngressRecord:
    """The same of the text of one configuration, which includes nothing; `name` stands for its file."""
    return _record(parse_config(text, name, in_parts([])), [], lambda _: None, None)


def read_afterwards(
    configs: Sequence[Path],
    logs: Sequence[Path],
    note: Callable[[str], None],
    application: str | None = None,
) -> Callable[[], IngressRecord]:
    """Read the configurations now, and make sure of the logs; the answer reads the logs when they are written.

    Raises ProbeError now. A log that cannot be used later is a remark: it must not cost the capture.
    """
    _check_once(configs, logs)
    server = read_application(application) if application is not None else None
    ingresses = [each for path in configs for each in read_config(path)]
    for path in logs:
        check_log(path)

    def read() -> IngressRecord:
        found: list[Log] = []
        for path in logs:
            try:
                found.append(read_log(path))
            except ProbeError as error:
                found.append(Log([], [str(error)]))
        return _record(ingresses, found, note, server)

    return read


def _check_once(configs: Sequence[Path], logs: Sequence[Path]) -> None:
    for option, paths in (("--ingress-config", configs), ("--ingress-log", logs)):
        twice = next((path for at, path in enumerate(paths) if path in paths[:at]), None)
        if twice is not None:
            raise UsageError(f"{option} {twice} is given twice; give it once")


def _record(
    ingresses: Sequence[Ingress],
    logs: Sequence[Log],
    note: Callable[[str], None],
    application: Application | None,
) -> IngressRecord:
    remarks = [f"{ingress.file}: {remark}" for ingress in ingresses for remark in ingress.notes]
    remarks += [remark for log in logs for remark in log.remarks]
    for remark in remarks:
        note(remark)
    entries = [entry for log in logs for entry in log.entries]
    return IngressRecord(tuple(ingresses), tuple(settled(entries, ingresses)), tuple(remarks), application)
