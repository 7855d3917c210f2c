"""The command line of the application's server, as a person would paste it."""

from __future__ import annotations

import pytest

from probe.errors import UsageError
from probe.ingress.application import read_application


@pytest.mark.parametrize(
    ("command", "allow"),
    [
        ("uvicorn app:main --forwarded-allow-ips 10.0.0.0/8", "10.0.0.0/8"),
        ("/venv/bin/uvicorn app:main --forwarded-allow-ips=*", "*"),
        ("FORWARDED_ALLOW_IPS=10.1.2.3 python -m uvicorn app:main", "10.1.2.3"),
        ("uvicorn app:main --forwarded-allow-ips \"'*'\"", "'*'"),
        ("uvicorn app:main", None),
    ],
)
def test_the_list_of_uvicorn_is_read_as_the_process_gets_it(command: str, allow: str | None) -> None:
    found = read_application(command)
    assert found.uvicorn is not None
    assert found.uvicorn.allow == allow


def test_gunicorn_with_a_worker_of_uvicorn() -> None:
    found = read_application(
        "gunicorn -k uvicorn.workers.UvicornWorker --forwarded-allow-ips 10.0.0.1 app:main"
    )
    assert found.gunicorn is not None
    assert (found.gunicorn.worker, found.gunicorn.allow) == ("uvicorn", "10.0.0.1")


@pytest.mark.parametrize(
    "command", ["", "node server.js", "uvicorn 'app", "uvicorn app:main --forwarded-allow-ips", "A=1 B=2"]
)
def test_what_cannot_be_read_is_told_in_one_line(command: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_application(command)
    assert str(caught.value).startswith("--app-server: ")
    assert "\n" not in str(caught.value)
