"""The package as people get it: a wheel in an environment of its own, its commands, and the plugin of kubectl."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

from probe import __version__

REPOSITORY = Path(__file__).resolve().parents[2]
KUBECTL = shutil.which("kubectl")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what is in the repository, with what is installed here."""
    pytest.importorskip("hatchling")
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("probe", "analysis", "daemonset"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "docs").mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "docs/probe.1"):
        shutil.copy(REPOSITORY / name, source / name)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (made,) = folder.glob("*.whl")
    return made


class Installed:
    """An environment that holds the wheel; libraries are those of the environment that runs the tests."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        venv.create(folder, with_pip=False)
        self.bin = folder / "bin"
        self.packages = next(folder.glob("lib/python*/site-packages"))
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "install"]
        options = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
        subprocess.run([*pip, *options, wheel], check=True, capture_output=True)

    def run(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            # Their .pth files are not read there, so that the repository itself is not seen.
            "PYTHONPATH": sysconfig.get_path("purelib"),
            "HOME": str(self.bin.parent),
            "LANG": "C.UTF-8",
        }
        return subprocess.run(
            [command, *arguments], env=environment, capture_output=True, text=True, check=False, cwd="/"
        )


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("environment") / "venv", wheel)


def test_all_that_is_no_code_is_in_the_wheel(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "probe/render/html/page.css",
        "probe/render/html/page.js",
        "probe/lab/scenarios/local-preserved.toml",
    ):
        assert wanted in names
    assert any(name.endswith("share/man/man1/probe.1") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "bench/"))]


def test_its_commands_run(installed: Installed) -> None:
    where = installed.run(str(installed.bin / "python"), "-c", "import probe; print(probe.__file__)")
    assert where.stdout.startswith(str(installed.packages)), "the repository was run instead"
    told = installed.run(str(installed.bin / "probe"), "version")
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith(f"probe {__version__}\n")
    assert (installed.bin.parent / "share/man/man1/probe.1").is_file()


def test_as_a_plugin_it_calls_itself_by_kubectls_name(installed: Installed) -> None:
    told = installed.run(str(installed.bin / "kubectl-client_ip"), "--help")
    assert told.returncode == 0
    assert "kubectl client-ip [OPTIONS] COMMAND" in told.stdout
    wrong = installed.run(str(installed.bin / "kubectl-client_ip"), "captrue")
    assert wrong.returncode == 2
    assert "'kubectl client-ip --help'" in wrong.stderr


@pytest.mark.skipif(KUBECTL is None, reason="needs kubectl")
def test_kubectl_finds_it(installed: Installed) -> None:
    assert KUBECTL is not None
    told = installed.run(KUBECTL, "client-ip", "version")
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith(f"probe {__version__}\n")
    listed = installed.run(KUBECTL, "plugin", "list")
    assert str(installed.bin / "kubectl-client_ip") in listed.stdout


@pytest.mark.skipif(KUBECTL is None, reason="needs kubectl")
def test_kubectl_completes_it(installed: Installed) -> None:
    assert KUBECTL is not None
    told = installed.run(KUBECTL, "__complete", "client-ip", "cap")
    assert "capture" in told.stdout.splitlines(), told.stderr


class TestKrew:
    @pytest.fixture
    def made(self, tmp_path: Path) -> Path:
        command = [sys.executable, REPOSITORY / "packaging/krew/make.py"]
        options = ["--uri", "https://example.org/client-ip.tar.gz", "--homepage", "https://example.org/"]
        subprocess.run([*command, *options, tmp_path], check=True, cwd=REPOSITORY)
        return tmp_path

    def test_the_manifest_is_what_krew_asks_for(self, made: Path) -> None:
        """krew's developer guide, "Writing Krew plugin manifests"; the name has dashes, the program underscores."""
        text = (made / "client-ip.yaml").read_text()
        assert "@" not in text
        manifest = yaml.safe_load(text)
        assert manifest["apiVersion"] == "krew.googlecontainertools.github.com/v1alpha2"
        assert (manifest["kind"], manifest["metadata"]["name"]) == ("Plugin", "client-ip")
        spec = manifest["spec"]
        assert spec["version"] == f"v{__version__}"
        assert len(spec["shortDescription"]) < 80
        assert {"homepage", "description", "caveats"} <= spec.keys()
        for platform in spec["platforms"]:
            assert platform["bin"] == "kubectl-client_ip"
            assert {each["from"] for each in platform["files"]} == {"kubectl-client_ip", "LICENSE"}
            packed = (made / "client-ip.tar.gz").read_bytes()
            assert platform["sha256"] == hashlib.sha256(packed).hexdigest()

    def test_the_archive_is_the_same_each_time(self, made: Path, tmp_path: Path) -> None:
        first = (made / "client-ip.tar.gz").read_bytes()
        command = [sys.executable, REPOSITORY / "packaging/krew/make.py", "--uri", "u", "--homepage", "h"]
        subprocess.run([*command, tmp_path / "again"], check=True, cwd=REPOSITORY)
        assert (tmp_path / "again/client-ip.tar.gz").read_bytes() == first

    def test_the_launcher_runs_this_version_with_what_is_there(self, made: Path) -> None:
        with tarfile.open(made / "client-ip.tar.gz") as archive:
            archive.extractall(made, filter="data")
        launcher, runners = made / "kubectl-client_ip", made / "runners"
        runners.mkdir()

        def run() -> subprocess.CompletedProcess[str]:
            path = f"{runners}:/nowhere"
            return subprocess.run(
                ["/bin/sh", launcher, "capture", "svc/a b"],
                env={"PATH": path}, capture_output=True, text=True, check=False,
            )  # fmt: skip

        nobody = run()
        assert nobody.returncode == 5
        assert "neither uvx nor pipx" in nobody.stderr
        for name in ("pipx", "uvx"):  # the second is taken before the first
            (runners / name).write_text(f"#!/bin/sh\nprintf '%s|' {name} \"$@\"\n")
            (runners / name).chmod(0o755)
            told = run().stdout.split("|")
            assert told[0] == name
            assert f"client-ip-probe[cluster]=={__version__}" in told
            assert told[-4:-1] == ["kubectl-client_ip", "capture", "svc/a b"]
