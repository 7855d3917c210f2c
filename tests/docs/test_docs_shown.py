"""What the documentation shows is what happens: its commands are run, its generated parts made anew."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.documents import DOCUMENTS, REPOSITORY, fences, generate
from tests.lab.here import why_not

SHOWING = {name: text for name, text in DOCUMENTS.items() if generate.shown_in(text)}


@pytest.mark.lab
@pytest.mark.parametrize("name", SHOWING)
def test_commands_print_what_is_shown(name: str, tmp_path: Path) -> None:
    shown = generate.shown_in(SHOWING[name])
    if any(each.needs_lab for each in shown) and why_not():
        pytest.skip(why_not())
    folder = tmp_path / "work"
    shutil.copytree(generate.EXAMPLES, folder)
    outputs = generate.run([each.command for each in shown], folder)
    for each, output in zip(shown, outputs, strict=True):
        same = generate.canonical(output) == generate.canonical(each.output)
        assert same, (
            f"{name} shows something else for `{each.command}`; run make docs. Now it prints:\n{output}"
        )


@pytest.mark.parametrize("name", [name for name, text in DOCUMENTS.items() if "<!-- generated" in text])
def test_generated_parts_are_up_to_date(name: str) -> None:
    parts = dict(generate.generated_in(DOCUMENTS[name]))
    assert parts, f"{name} has a part that begins and does not end"
    for part, text in parts.items():
        assert text == generate.generated(part), f"{part} in {name} is out of date; run make docs"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_is_not_run_says_why(name: str) -> None:
    for fence in fences(DOCUMENTS[name]):
        if fence.language != "sh" or fence.before.startswith("<!-- not run here: "):
            continue
        for line in fence.body.splitlines():
            command = line.partition("#")[0].strip()
            assert command.startswith("make "), f"{name}: {command!r} is neither run nor says why"


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_every_make_target_that_is_named_exists() -> None:
    targets = {
        line.split()[1]
        for text in DOCUMENTS.values()
        for fence in fences(text)
        if fence.language == "sh"
        for line in fence.body.splitlines()
        if line.startswith("make ")
    }
    assert {"demo", "test"} <= targets
    for target in sorted(targets):
        tried = subprocess.run(
            ["make", "--dry-run", target], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        assert tried.returncode == 0, tried.stderr


def test_a_change_in_substance_is_noticed_and_a_change_of_ports_is_not() -> None:
    before = "nic eth0  172.30.0.11:1095   → 10.244.2.2:8080\n          ^^^^^^^^^^^^^^^^ source replaced"
    after = "nic eth0  172.30.0.11:61095  → 10.244.2.2:8080\n          ^^^^^^^^^^^^^^^^^ source replaced"
    assert generate.canonical(before) == generate.canonical(after)
    assert generate.canonical(before) != generate.canonical(before.replace(":8080", ":8081"))
    assert generate.canonical(before) != generate.canonical(before.replace("172.30.0.11", "172.30.0.12"))
