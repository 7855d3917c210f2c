"""nginx as a TCP proxy: what its stream module writes into the PROXY header that it sends."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from analysis.trust.evaluate import resolve
from analysis.trust.model import Arrival, NginxRealIp
from tests.trust.asking import ask, echo, folder, heard, ports, program, running, told

MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
FIELDS = (("X-Forwarded-For", "6.6.6.6"), ("X_Strange", "kept"))

SETTINGS = [
    NginxRealIp(trusted, proxy_protocol=proxy_protocol, stream=True, sends_proxy=sends_proxy)
    for trusted, proxy_protocol, sends_proxy in itertools.product(
        ((), ("127.0.0.2",), ("0.0.0.0/0",)), (False, True), (False, True)
    )
]


def test_nginx_stream_says_what_the_rules_say() -> None:
    if not MODULE.exists():
        pytest.skip(f"needs {MODULE.name}, which Debian packs as libnginx-mod-stream")
    with folder() as where, echo() as upstream:
        listens = ports(len(SETTINGS))
        blocks = []
        for one, port in zip(SETTINGS, listens, strict=True):
            lines = [f"listen 127.0.0.1:{port}{' proxy_protocol' if one.proxy_protocol else ''};"]
            lines += [f"set_real_ip_from {entry};" for entry in one.trusted]
            lines += [
                f"proxy_protocol {'on' if one.sends_proxy else 'off'};",
                f"proxy_pass 127.0.0.1:{upstream};",
            ]
            blocks.append("server {\n" + "\n".join(lines) + "\n}")
        (where / "nginx.conf").write_text(
            f"load_module {MODULE};\ndaemon off; master_process off; pid {where}/pid; error_log {where}/error.log;\n"
            "events { worker_connections 64; }\nstream {\n" + "\n".join(blocks) + "\n}\n"
        )
        command = [
            program("nginx"),
            "-p",
            str(where),
            "-c",
            f"{where}/nginx.conf",
            "-e",
            f"{where}/error.log",
        ]
        with running(command, listens[0]):
            for (one, port), peer, proxy in itertools.product(
                zip(SETTINGS, listens, strict=True),
                ("127.0.0.2", "127.0.0.9"),
                (None, "", "198.51.100.7", "2001:db8::7"),
            ):
                if proxy is not None and not one.proxy_protocol:
                    continue  # then it is data like any other
                arrival = Arrival(peer, proxy, FIELDS)
                expected = resolve(one, arrival)
                answer = ask(("127.0.0.1", port), arrival)
                assert answer.refused == expected.refused, (one, arrival)
                if not expected.refused:
                    assert heard(answer)[0] == expected.onward_proxy, (one, arrival)
                    assert told(heard(answer)[1]) == told(expected.onward or ()), (one, arrival)
