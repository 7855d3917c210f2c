"""The floors hold: imports run downward only, and start-up carries nothing that it does not need."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

#: From the top down; each may import itself and what stands after it, as far as `ALLOWED` says.
FLOORS = ("probe", "analysis", "daemonset")

#: What a floor may import of the others.
ALLOWED = {
    "probe": ("probe", "analysis", "daemonset"),
    "analysis": ("analysis", "daemonset.observation"),
    "daemonset": ("daemonset",),
}

#: What a floor may import that is not of the standard library.
LIBRARIES = {
    "probe": {
        "typer",
        "rich",
        "msgspec",
        "kubernetes",
        "aiohttp",
        "fastapi",
        "uvicorn",
        "numpy",
        "duckdb",
        "textual",
        "yaml",
    },
    "analysis": {"msgspec", "numpy", "duckdb"},
    "daemonset": {"msgspec", "numpy", "scapy", "pyroute2"},
}

#: Modules of the standard library that do input or output: none of the analysis' business.
IMPURE = {"socket", "subprocess", "os", "pathlib", "time", "threading", "asyncio", "io", "random", "shutil"}

HEAVY = ("scapy", "kubernetes", "aiohttp", "pyroute2", "numpy", "duckdb", "fastapi", "uvicorn")


def files(floor: str) -> list[Path]:
    return sorted((REPOSITORY / floor).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a file imports, at any depth."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are written in full"
            assert node.module is not None
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_run_downward_only(floor: str) -> None:
    assert files(floor)
    for path in files(floor):
        for line, name in imports(path):
            if name.partition(".")[0] not in FLOORS:
                continue
            # "from daemonset import observation" names the package first: that by itself brings nothing.
            allowed = any(
                name == part or name.startswith(part + ".") or part.startswith(name + ".")
                for part in ALLOWED[floor]
            )
            assert allowed, f"{path.relative_to(REPOSITORY)}:{line}: {floor} must not import {name}"


@pytest.mark.parametrize("floor", FLOORS)
def test_each_floor_uses_its_own_libraries(floor: str) -> None:
    for path in files(floor):
        for line, name in imports(path):
            top = name.partition(".")[0]
            known = top in FLOORS or top in sys.stdlib_module_names or top in LIBRARIES[floor]
            assert known, f"{path.relative_to(REPOSITORY)}:{line}: {floor} must not import {name}"


def test_the_analysis_is_pure() -> None:
    for path in files("analysis"):
        for line, name in imports(path):
            assert name.partition(".")[0] not in IMPURE, f"{path.relative_to(REPOSITORY)}:{line}: {name}"


def test_nobody_imports_all_of_scapy_or_the_click_that_typer_brings_itself() -> None:
    for floor in FLOORS:
        for path in files(floor):
            for line, name in imports(path):
                where = f"{path.relative_to(REPOSITORY)}:{line}"
                assert not name.startswith("scapy.all"), f"{where}: import the layers, not scapy.all"
                assert name.partition(".")[0] != "click", f"{where}: typer bundles its own"
                assert not name.startswith("typer._"), f"{where}: private to typer"


def loaded_after(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after running `code`."""
    script = (
        f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}}, file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    assert result.returncode == 0, result.stderr
    return set(result.stderr.splitlines()[-1].split())


def run_main(*arguments: str) -> str:
    """Code that runs the command line and goes on afterwards."""
    return (
        f"sys.argv = ['probe', *{list(arguments)!r}]\n"
        "from probe.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass"
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["version"], ["analyze", "--help"], ["lab", "--help"], ["--show-completion"]]
)
def test_start_up_is_light(arguments: list[str]) -> None:
    assert not loaded_after(run_main(*arguments)) & set(HEAVY)


def test_analyzing_needs_nothing_of_a_node_or_a_cluster(tmp_path: Path) -> None:
    capture = tmp_path / "empty.pcap"
    capture.write_bytes(bytes.fromhex("d4c3b2a1 0200 0400 00000000 00000000 00000400 01000000"))
    loaded = loaded_after(run_main("analyze", "--tap", f"nic:node1/eth0={capture}", "-o", "json"))
    assert not loaded & {"scapy", "kubernetes", "aiohttp", "pyroute2", "fastapi", "uvicorn"}
    assert "duckdb" in loaded, "the analysis did not run, so this test says nothing"


def test_the_schema_is_read_without_anything_that_captures() -> None:
    assert not loaded_after("import daemonset.observation") & set(HEAVY)


def test_the_agent_never_loads_what_belongs_to_the_operator() -> None:
    loaded = loaded_after("import daemonset.agent")
    assert not loaded & {"kubernetes", "probe", "analysis", "typer", "rich", "duckdb"}
