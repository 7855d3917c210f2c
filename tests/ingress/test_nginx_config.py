"""nginx.conf as this project reads it, with nginx itself as the judge of what is well formed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from analysis.ingress import Ingress, Kind, Listener
from analysis.trust.model import NginxRealIp
from probe.errors import UsageError
from probe.ingress.config import read_config
from probe.ingress.errors import ConfigError
from probe.ingress.nginx_grammar import parse
from tests.ingress.running import need, nginx_main


def read(folder: Path, text: str, **others: str) -> Ingress:
    for name, content in others.items():
        (folder / name).write_text(content)
    (folder / "nginx.conf").write_text(text)
    (ingress,) = read_config(folder / "nginx.conf")
    return ingress


def refusal(text: str) -> ConfigError | None:
    """Why a text is not well formed, None where it is."""
    try:
        parse(text)
    except ConfigError as error:
        return error
    return None


def at(ingress: Ingress, port: int) -> Listener:
    (found,) = [each for each in ingress.listeners if each.port == port]
    return found


def trust(listener: Listener) -> NginxRealIp:
    assert listener.nginx is not None
    return listener.nginx


# ── what is well formed ──────────────────────────────────────────────────────────────────────────────────

SNIPPETS = {
    "quotes of both kinds": """server { listen 8080; add_header "A b" 'c "d" {e};'; }""",
    "a hash within a word": "server { listen 8080; location /a#b { return 204; } }",
    "a comment with a brace": "server { listen 8080; # } {\n }",
    "a variable in braces": "server { listen 8080; return 200 ${host}x{y; }",
    "an escaped quote": r"""server { listen 8080; return 200 "a\"b\\"; }""",
    "a map with odd words": 'map $host $x { default 0; ~^a{1,2}$ 1; "~*\\.b;c{2}" 2; hostnames; }',
    "words over several lines": "server\n{\nlisten\n  8080\n;}",
    "a text over several lines": "server { listen 8080; return 200 'one\ntwo\n'; }",
    "a quote within a word": "server { listen 8080; return 200 a'b; }",
    "nothing at all": "",
    "no semicolon before the end": "server { listen 8080 }",
    "one brace too many": "server { listen 8080; } }",
    "one brace too few": "server { listen 8080; ",
    "a text that never ends": "server { listen 8080; return 200 'a; }",
    "a word behind a quote": "server { listen 8080; return 200 'a'b; }",
    "a lone semicolon": "server { listen 8080; ; }",
    "a lone brace": "server { listen 8080; { } }",
}


@pytest.mark.parametrize("name", SNIPPETS)
def test_nginx_and_we_agree_on_what_is_well_formed(name: str, tmp_path: Path) -> None:
    text = nginx_main(tmp_path, f"access_log off;\n{SNIPPETS[name]}")
    (tmp_path / "nginx.conf").write_text(text)
    command = [need("nginx"), "-t", "-p", tmp_path, "-e", tmp_path / "e", "-c", tmp_path / "nginx.conf"]
    verdict = subprocess.run(command, capture_output=True, text=True, check=False)
    error = refusal(text)
    if verdict.returncode == 0:
        assert error is None, "nginx takes it"
    else:
        assert error is not None, f"nginx refuses it: {verdict.stderr}"
        assert 0 < error.line <= text.count("\n") + 1


def test_lua_is_not_read_as_directives() -> None:
    text = """
    init_by_lua_block { local t = { a = "}" } -- }
      x = [==[ } ]] ]==] y = '}' --[[ } ]] }
    server { listen 1; }
    """
    lua, server = parse(text)
    assert (lua.name, lua.block) == ("init_by_lua_block", [])
    assert (server.name, server.line) == ("server", 4)
    with pytest.raises(ConfigError, match="Lua block"):
        parse("a_by_lua_block { if true {")


@given(st.text(alphabet="ab ;{}#\\\"'$\n/*:=é\0", max_size=60))
@example("a_by_lua_block {[[")
@example("{" * 60)
def test_any_text_is_parsed_or_refused_with_a_line(text: str) -> None:
    error = refusal(text)
    assert error is None or 0 < error.line <= text.count("\n") + 1


def test_blocks_within_each_other_have_an_end() -> None:
    with pytest.raises(ConfigError, match="within each other"):
        parse("a {" * 100_000)


# ── what it says ─────────────────────────────────────────────────────────────────────────────────────────


def test_settings_come_from_the_nearest_block_that_has_them(tmp_path: Path) -> None:
    ingress = read(
        tmp_path,
        """
        http {
          set_real_ip_from 10.0.0.0/8; set_real_ip_from 192.168.0.1; real_ip_header X-Forwarded-For;
          proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
          proxy_set_header X-Real-IP $remote_addr;
          upstream app { server 10.1.1.1; server 10.1.1.2:81 weight=2; server unix:/run/x; }
          server { listen 80; real_ip_recursive on; location / { proxy_pass http://app/; } }
          server { listen 81; set_real_ip_from 172.16.0.0/12;
                   location / { proxy_set_header X-Forwarded-For $remote_addr; proxy_pass http://10.9.9.9; } }
          server { listen 82; return 200; }
        }
        """,
    )
    assert trust(at(ingress, 80)) == NginxRealIp(
        trusted=("10.0.0.0/8", "192.168.0.1"),
        header="X-Forwarded-For",
        recursive=True,
        sends=(("X-Forwarded-For", "$proxy_add_x_forwarded_for"), ("X-Real-IP", "$remote_addr")),
    )
    assert trust(at(ingress, 81)).trusted == ("172.16.0.0/12",)
    assert trust(at(ingress, 81)).sends == (("X-Forwarded-For", "$remote_addr"),)
    assert trust(at(ingress, 82)).sends == trust(at(ingress, 80)).sends
    assert [each.address for each in at(ingress, 80).upstreams] == [
        "10.1.1.1:80",
        "10.1.1.2:81",
        "unix:/run/x",
    ]
    assert [each.address for each in at(ingress, 81).upstreams] == ["10.9.9.9:80"]


def test_the_forms_of_listen(tmp_path: Path) -> None:
    ingress = read(
        tmp_path,
        """
        http {
          server { listen 80; listen [::]:80; listen 127.0.0.1:8000 proxy_protocol; listen *:8001 default_server ssl;
                   listen 10.0.0.1; listen 9000-9002; listen localhost:9100; listen unix:/run/x.sock;
                   listen 443 quic; listen [::]:8443 ssl ipv6only=off; }
          server { server_name elsewhere; }
        }
        """,
    )
    found = {(each.port, each.addresses, each.proxy_protocol, each.tls) for each in ingress.listeners}
    assert found == {
        (80, ("0.0.0.0",), False, False),  # the other server is here too: one without `listen` has this one
        (80, ("::", "10.0.0.1"), False, False),
        (8000, ("127.0.0.1",), True, False),
        (8001, ("0.0.0.0",), False, True),
        (9000, ("0.0.0.0",), False, False),
        (9001, ("0.0.0.0",), False, False),
        (9002, ("0.0.0.0",), False, False),
        (9100, ("localhost",), False, False),
        (8443, (), False, True),
    }
    assert [note.partition(": ")[2] for note in ingress.notes] == [
        "a unix socket is not followed",
        "UDP is not followed",
    ]


def test_what_one_server_says_of_a_socket_holds_for_all(tmp_path: Path) -> None:
    ingress = read(
        tmp_path,
        "http { server { listen 80; server_name a; } server { listen 80 proxy_protocol; server_name b; } }",
    )
    (listener,) = ingress.listeners
    assert listener.proxy_protocol is True
    assert listener.versions == (1, 2)
    assert listener.name == "a b"


def test_of_servers_that_differ_nothing_is_claimed(tmp_path: Path) -> None:
    ingress = read(
        tmp_path,
        """http {
          server { listen 80; server_name a; set_real_ip_from 10.0.0.0/8; location / { proxy_pass http://10.1.1.1; } }
          server { listen 80; server_name b; location / { proxy_pass http://10.1.1.1; } } }""",
    )
    (listener,) = ingress.listeners
    assert listener.trust is None
    assert "differ" in listener.notes[0]


def test_locations_may_differ_in_what_is_not_about_the_client(tmp_path: Path) -> None:
    ingress = read(
        tmp_path,
        """http { server { listen 80;
          location / { proxy_set_header X-Forwarded-For $remote_addr; proxy_pass http://10.1.1.1; }
          location /ws { proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header Upgrade $http_upgrade;
                         proxy_pass http://10.1.1.1; } } }""",
    )
    assert trust(at(ingress, 80)).sends[0] == ("X-Forwarded-For", "$remote_addr")


def test_a_stream_server_that_sends_a_header(tmp_path: Path) -> None:
    ingress = read(
        tmp_path,
        """stream { upstream ingress { server 10.0.0.1:8081; }
           server { listen 443; proxy_pass ingress; proxy_protocol on; }
           server { listen 444 proxy_protocol; proxy_pass 10.0.0.2:80; }
           server { listen 53 udp; proxy_pass 10.0.0.3:53; } }""",
    )
    first, second = at(ingress, 443), at(ingress, 444)
    assert first.mode == "tcp"
    assert trust(first).stream
    assert trust(first).sends_proxy
    assert [(each.address, each.sends) for each in first.upstreams] == [("10.0.0.1:8081", 1)]
    assert second.proxy_protocol is True
    assert [(each.address, each.sends) for each in second.upstreams] == [("10.0.0.2:80", 0)]
    assert len(ingress.listeners) == 2


def test_what_nobody_can_trust_is_admitted(tmp_path: Path) -> None:
    """nginx refuses such a line; whom the listener would believe is then not claimed."""
    ingress = read(tmp_path, "http { server { listen 80 proxy_protocol; set_real_ip_from 10.0.0.0/99; } }")
    (listener,) = ingress.listeners
    assert (listener.proxy_protocol, listener.trust) == (True, None)
    assert "10.0.0.0/99" in listener.notes[0]
    assert "10.0.0.0/99" in ingress.notes[0]


# ── its files ────────────────────────────────────────────────────────────────────────────────────────────


def test_includes_beside_the_main_file(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "one.conf").write_text("server { listen 81; include real.inc; }")
    (tmp_path / "conf.d" / "two.conf").write_text("server { listen 82; }")
    (tmp_path / "real.inc").write_text("set_real_ip_from 10.0.0.0/8;")
    ingress = read(tmp_path, "http { include conf.d/*.conf; include mime.types; include gone.conf; }")
    assert [each.port for each in ingress.listeners] == [81, 82]
    assert trust(at(ingress, 81)).trusted == ("10.0.0.0/8",)
    (note,) = ingress.notes
    assert "gone.conf is not there" in note
    assert "line 1" in note


def test_a_copy_of_etc_nginx_includes_what_was_copied_with_it(tmp_path: Path) -> None:
    ingress = read(
        tmp_path,
        "http { include /etc/nginx/here.conf; }",
        **{"here.conf": "server { listen 4711 proxy_protocol; }"},
    )
    assert at(ingress, 4711).proxy_protocol is True


def test_what_nginx_dumps_is_its_own_configuration(tmp_path: Path) -> None:
    """`nginx -T` prints every file with its name; both streams of it may be in the file."""
    (tmp_path / "more.conf").write_text("server { listen 4712 proxy_protocol; set_real_ip_from 10.0.0.0/8; }")
    config = tmp_path / "nginx.conf"
    config.write_text(nginx_main(tmp_path, "access_log off; include more.conf;"))
    command = [need("nginx"), "-T", "-p", tmp_path, "-e", tmp_path / "e", "-c", config]
    dump = tmp_path / "dump.txt"
    with dump.open("wb") as file:
        subprocess.run(command, stdout=file, stderr=file, check=True)
    config.unlink()
    (tmp_path / "more.conf").unlink()
    (ingress,) = read_config(dump)
    assert (ingress.kind, ingress.file) == (Kind.NGINX, str(dump))
    assert at(ingress, 4712).proxy_protocol is True
    assert trust(at(ingress, 4712)).trusted == ("10.0.0.0/8",)


def test_includes_that_go_round(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="within each other"):
        read(tmp_path, "http { include nginx.conf; }")


def test_an_include_never_opens_what_is_no_file(tmp_path: Path) -> None:
    ingress = read(tmp_path, "http { server { listen 80; } include /dev/zero; }")
    assert "/dev/zero is not there" in ingress.notes[0]


def test_two_stars_are_one_and_do_not_walk_the_disk(tmp_path: Path) -> None:
    deep = tmp_path / "conf.d" / "deep"
    deep.mkdir(parents=True)
    (deep / "one.conf").write_text("server { listen 81; }")
    (tmp_path / "conf.d" / "two.conf").write_text("server { listen 82; }")
    ingress = read(tmp_path, "http { server { listen 80; } include conf.d/**; include /**/nothing; }")
    assert {each.port for each in ingress.listeners} == {80, 82}


def test_ports_of_wide_ranges_are_not_told_one_by_one(tmp_path: Path) -> None:
    ingress = read(tmp_path, "http { server { listen 80; listen 9000-9002; listen 10.0.0.1:1-65535; } }")
    assert {each.port for each in ingress.listeners} == {80, 9000, 9001, 9002}
    assert any("more than 1000 in ranges" in note for note in ingress.notes)


def test_an_error_names_the_included_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"bad\.conf line 2: unexpected \"}\""):
        read(tmp_path, "http {\n include bad.conf;\n}", **{"bad.conf": "server { listen 80; }\n}"})
