"""What is installed, and what this machine allows: `probe version`, `probe doctor`, completion in real shells."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.report import Severity
from probe import __version__, doctor, versions
from probe.completing import script
from probe.doctor import Check, Diagnosis, diagnose
from probe.render.doctor import diagnosis_text
from probe.render.versions import versions_text
from tests import hostile
from tests.cli.helpers import Probe
from tests.lab.here import python_for_nobody

values = pytest.mark.parametrize("value", hostile.VALUES.values(), ids=hostile.VALUES.keys())


class TestVersion:
    def test_it_names_everything_that_an_answer_depends_on(self, probe: Probe) -> None:
        told = probe("version", "-o", "json").json
        assert told["probe"] == __version__
        assert told["python"].endswith(sys.version.split()[0])
        names = {each["name"] for each in told["libraries"]}
        assert {"duckdb", "msgspec", "kubernetes", "scapy", "uvicorn"} <= names
        assert told["system"].startswith(os.uname().sysname)
        assert probe("version").out.startswith(f"probe {__version__}\n")
        assert probe("--version").out == f"probe {__version__}\n"

    def test_every_library_of_the_project_is_told(self) -> None:
        import re
        import tomllib

        project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
        wanted = {"": project["dependencies"], **project["optional-dependencies"]}
        named = {
            extra: {re.split(r"[><=\[]", each)[0] for each in requirements}
            for extra, requirements in wanted.items()
        }
        assert named == {extra: set(names) for extra, names in versions.LIBRARIES.items()}

    def test_what_is_absent_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "/nowhere")
        monkeypatch.setattr(versions, "SYSTEM_PATH", ())
        monkeypatch.setattr(versions, "LIBRARIES", {"": ("no-such-library",), "lab": ("nor-this",)})
        told = versions.versions()
        assert {each.version for each in (*told.libraries, *told.tools)} == {None}
        text = versions_text(told, sys.stdout)
        assert "no-such-library absent" in text
        assert "client-ip-probe[lab] brings nor-this" in text
        assert "none of those that are used" in text

    def test_a_tool_that_says_nonsense_is_data(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tool = tmp_path / "nginx"
        tool.write_text("#!/bin/sh\nprintf 'v1.2.3\\033[2J\\n'; exit 1\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
        assert versions.tool("nginx").version == "1.2.3"
        tool.write_text("#!/bin/sh\nprintf '\\377\\033[2J'\n")
        assert versions.tool("nginx").version is None


def told_by(check: Check) -> Diagnosis:
    return diagnose(["cluster"], lambda _: [check], lambda _: None)


class TestDoctor:
    def test_what_is_missing_and_was_not_asked_for_is_no_error(
        self, probe: Probe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("KUBECONFIG", raising=False)
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        monkeypatch.setenv("PATH", "/nowhere")
        monkeypatch.setattr(versions, "SYSTEM_PATH", ())
        monkeypatch.setattr(doctor, "SYSTEM_PATH", ())
        ending = probe("doctor", "-o", "json")
        assert ending.code == 0, ending.out
        checks = {(each["area"], each["name"]): each for each in ending.json["checks"]}
        for name in ("nginx", "haproxy", "nft"):
            assert checks["lab", name]["severity"] == "warning"
            assert "apt-get install" in checks["lab", name]["fix"]
        assert checks["cluster", "kubeconfig"]["severity"] == "warning"
        asked = probe("doctor", "lab")
        assert asked.code == 5
        assert "× nginx  not installed" in asked.out

    def test_everything_that_is_wrong_says_what_to_do(self, probe: Probe, tmp_path: Path) -> None:
        kubeconfig = tmp_path / "config"
        kubeconfig.write_text("no: kubeconfig")
        for arguments in (["--kubeconfig", kubeconfig], ["--kubeconfig", tmp_path / "absent"]):
            ending = probe("doctor", "cluster", *arguments, "-o", "json")
            assert ending.code == 5
            assert all(each["fix"] for each in ending.json["checks"] if each["severity"])

    @pytest.mark.lab
    def test_the_kernel_is_tried_without_root(self) -> None:
        python = python_for_nobody()
        if python is None:
            pytest.skip("no Python that another user may run")
        code = "import sys; sys.argv = ['probe', 'doctor', 'lab', '-o', 'json']; from probe.cli import main; main()"
        ran = subprocess.run([*python, "-c", code], capture_output=True, text=True, cwd="/", check=False)
        assert ran.returncode in {0, 5}, ran.stderr
        checks = {each["name"]: each for each in json.loads(ran.stdout)["checks"]}
        assert checks["namespaces"]["severity"] is None or checks["namespaces"]["fix"]
        if checks["namespaces"]["severity"] is None:
            assert {"bridges", "veth pairs", "nftables NAT"} <= checks.keys()

    def test_each_area_is_shown_with_its_summary(self) -> None:
        fine = told_by(Check("cluster", "API server", None, "answers"))
        assert (fine.ok, fine.exit_code) == (True, 0)
        assert "nothing stands in the way" in diagnosis_text(fine, sys.stdout)
        wrong = told_by(Check("cluster", "API server", Severity.ERROR, "does not answer", "look at it"))
        assert (wrong.ok, wrong.exit_code) == (False, 5)
        text = diagnosis_text(wrong, sys.stdout)
        assert "× API server  does not answer" in text
        assert "Fix  look at it" in text
        assert "1 thing to be mended" in text

    @values
    def test_no_answer_speaks_to_the_terminal(self, value: bytes) -> None:
        text = value[:3000].decode("utf-8", "surrogateescape")
        hostile.safe_text(
            diagnosis_text(told_by(Check("cluster", text, Severity.ERROR, text, text)), sys.stdout)
        )


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which `probe` is a command."""
    folder = tmp_path_factory.mktemp("bin")
    command = folder / "probe"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -c "from probe.cli import main; main()" "$@"\n')
    command.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(folder)}


class TestCompletion:
    @pytest.mark.parametrize(
        ("words", "expected"), [("probe ca", "capture"), ("probe capture --la", "--lab")]
    )
    def test_bash_completes(self, commands: dict[str, str], words: str, expected: str) -> None:
        code = (
            "source <(probe completion bash); COMP_WORDS=($1); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); "
            '_probe_completion probe; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        ran = subprocess.run(
            ["bash", "-c", code, "bash", words], env=commands, capture_output=True, text=True, check=True
        )
        assert expected in ran.stdout.split()

    @pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
    def test_fish_completes(self, commands: dict[str, str]) -> None:
        code = "probe completion fish | source; complete -C 'probe ca'"
        ran = subprocess.run(["fish", "-c", code], env=commands, capture_output=True, text=True, check=True)
        assert "capture" in {line.partition("\t")[0] for line in ran.stdout.splitlines()}

    @pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
    def test_zsh_takes_the_script(self, commands: dict[str, str]) -> None:
        code = (
            "autoload -U compinit; compinit -u -d $HOME/dump; source <(probe completion zsh); "
            "print $_comps[probe]; whence -w _probe_completion"
        )
        ran = subprocess.run(
            ["zsh", "-f", "-c", code], env=commands, capture_output=True, text=True, check=True
        )
        assert ran.stdout.split() == ["_probe_completion", "_probe_completion:", "function"]

    def test_scenarios_are_completed_too(self) -> None:
        told = subprocess.run(
            [sys.executable, "-c", "from probe.completing import main; main()", "capture", "--lab", "local-"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        *found, directive = told.stdout.splitlines()
        assert "local-preserved" in found
        assert directive == ":0"

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_a_script_is_printed_and_nothing_is_left_behind(self, probe: Probe, shell: str) -> None:
        ending = probe("completion", shell)
        assert ending.code == 0
        assert ending.out == script(shell)
        assert "_PROBE_COMPLETE" in ending.out
        assert "_PROBE_COMPLETE" not in os.environ

    def test_another_shell_is_refused(self, probe: Probe) -> None:
        probe("completion", "tcsh").complains(2, "tcsh")
