"""What we are built on: every locked package with a licence that is known, and bills of materials that hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from bom.licences import UnknownLicenceError, licence, parts_of
from bom.lock import read_lock
from bom.parts import AGENT, CLUSTER, COMMAND, ELSEWHERE, IMAGE, LAB, TESTS, TUI, installed
from tests.manifests.dockerfile import read
from tests.test_floors import LIBRARIES

REPOSITORY = Path(__file__).resolve().parents[2]

#: What CycloneDX 1.6 demands of the fields that we write (bom-1.6.schema.json), and no more than that.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["bomFormat", "specVersion"],
    "additionalProperties": False,
    "properties": {
        "bomFormat": {"const": "CycloneDX"},
        "specVersion": {"const": "1.6"},
        "serialNumber": {
            "pattern": "^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
        },
        "version": {"type": "integer", "minimum": 1},
        "metadata": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "timestamp": {"pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$"},
                "lifecycles": {"items": {"properties": {"phase": {"enum": ["build"]}}}},
                "tools": {"properties": {"components": {"items": {"$ref": "#/$defs/component"}}}},
                "component": {"$ref": "#/$defs/component"},
            },
        },
        "components": {"type": "array", "uniqueItems": True, "items": {"$ref": "#/$defs/component"}},
        "dependencies": {
            "type": "array",
            "uniqueItems": True,
            "items": {
                "required": ["ref"],
                "additionalProperties": False,
                "properties": {
                    "ref": {"type": "string"},
                    "dependsOn": {"type": "array", "uniqueItems": True, "items": {"type": "string"}},
                },
            },
        },
    },
    "$defs": {
        "hashes": {
            "type": "array",
            "items": {
                "required": ["alg", "content"],
                "properties": {"alg": {"const": "SHA-256"}, "content": {"pattern": "^[0-9a-f]{64}$"}},
            },
        },
        "component": {
            "type": "object",
            "required": ["type", "name"],
            "additionalProperties": False,
            "properties": {
                "type": {"enum": ["application", "container", "library", "platform", "file"]},
                "bom-ref": {"type": "string", "minLength": 1},
                "name": {"type": "string"},
                "version": {"type": "string", "maxLength": 1024},
                "purl": {"pattern": "^pkg:(pypi|oci|generic)/"},
                "hashes": {"$ref": "#/$defs/hashes"},
                "licenses": {
                    "oneOf": [
                        {
                            "items": {
                                "required": ["license"],
                                "properties": {"license": {"required": ["id"]}},
                            }
                        },
                        {"maxItems": 1, "items": {"required": ["expression"]}},
                    ]
                },
                "externalReferences": {
                    "items": {
                        "required": ["url", "type"],
                        "additionalProperties": False,
                        "properties": {
                            "url": {"type": "string"},
                            "type": {"const": "distribution"},
                            "comment": {"type": "string"},
                            "hashes": {"$ref": "#/$defs/hashes"},
                        },
                    }
                },
            },
        },
    },
}


def sbom(of: str, file: Path, **variables: str) -> dict[str, Any]:
    command = [sys.executable, REPOSITORY / "packaging/sbom.py", of, file]
    subprocess.run(command, check=True, cwd=REPOSITORY, env={**os.environ, **variables})
    return json.loads(file.read_text())


# ── licences ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_locked_package_has_a_licence_that_is_known() -> None:
    there = installed()
    for each in read_lock():
        assert licence(each.key, there.get(each.key))


def test_a_licence_is_not_guessed() -> None:
    with pytest.raises(UnknownLicenceError, match=r"colorama2 is not known; read it"):
        licence("colorama2", distribution("colorama"))  # it says "BSD License", of which there are several


def test_every_locked_package_has_its_digests() -> None:
    for each in read_lock():
        assert each.digests, f"{each.name} could be replaced by whoever has its name"


def test_what_an_operator_installs_asks_for_nothing_but_notices_and_its_own_sources() -> None:
    """None under the GPL's terms: scapy is the agent's, which the operator's side does not load."""
    free = {
        "0BSD",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "CC0-1.0",
        "ISC",
        "MIT",
        "MPL-2.0",
        "PSF-2.0",
        "Zlib",
    }
    locked, there = read_lock(), installed()
    parts = parts_of(locked, there)
    for each in locked:
        if {COMMAND, CLUSTER, LAB, TUI} & set(parts[each.key]):
            assert set(licence(each.key, there.get(each.key)).replace("OR", "AND").split(" AND ")) <= free, (
                each
            )


def test_parts_are_what_the_project_and_the_image_say() -> None:
    locked = read_lock()
    parts = parts_of(locked, installed())
    assert parts["duckdb"] == (COMMAND,)
    assert parts["scapy"] == (AGENT,)
    assert CLUSTER in parts["kubernetes"]
    assert parts["pytest"] == (TESTS,)
    assert parts["win-inet-pton"] == (ELSEWHERE,)
    assert {each.key for each in locked if AGENT in parts[each.key]} == LIBRARIES["daemonset"] == set(IMAGE)
    (label,) = (step.rest for step in read(REPOSITORY / "Dockerfile") if step.keyword == "LABEL")
    said = label.partition('licenses="')[2].partition('"')[0]
    there = installed()
    for name in IMAGE:
        first = licence(name, there.get(name)).split(" AND ")[0]
        assert first in said, f"the image's label does not name {name}'s {first}"


# ── bills of materials ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("of", ["operator", "agent"])
def test_a_bill_is_what_cyclonedx_asks_for(of: str, tmp_path: Path) -> None:
    made = sbom(of, tmp_path / "bill.json", SOURCE_DATE_EPOCH="1767225600")
    jsonschema.validate(made, SCHEMA, cls=jsonschema.Draft7Validator)
    assert made["metadata"]["timestamp"] == "2026-01-01T00:00:00+00:00"
    refs = [each["bom-ref"] for each in (made["metadata"]["component"], *made["components"])]
    assert len(refs) == len(set(refs))
    for each in made["dependencies"]:
        assert {each["ref"], *each["dependsOn"]} <= set(refs), "a dependency leads nowhere"
    assert {each["ref"] for each in made["dependencies"]} == set(refs)


def test_the_operators_bill_holds_what_the_command_needs_and_nothing_of_the_agent(tmp_path: Path) -> None:
    made = sbom("operator", tmp_path / "bill.json")
    names = {each["name"] for each in made["components"]}
    assert {
        "duckdb",
        "msgspec",
        "numpy",
        "pyyaml",
        "rich",
        "typer",
        "aiohttp",
        "kubernetes",
        "urllib3",
    } <= names
    assert not {"scapy", "pyroute2", "pytest", "textual", "uvicorn"} & names
    for each in made["components"]:
        digests = {hashed["content"] for hashed in each["externalReferences"][0]["hashes"]}
        locked = next(
            entry for entry in read_lock() if (entry.name, entry.version) == (each["name"], each["version"])
        )
        assert digests == set(locked.digests)


def test_the_agents_bill_holds_the_images_packages(tmp_path: Path) -> None:
    made = sbom("agent", tmp_path / "bill.json")
    assert {each["name"] for each in made["components"]} == LIBRARIES["daemonset"]
    assert made["metadata"]["component"]["type"] == "container"


def test_a_bill_is_the_same_each_time(tmp_path: Path) -> None:
    first = sbom("operator", tmp_path / "first.json", SOURCE_DATE_EPOCH="1")
    assert sbom("operator", tmp_path / "again.json", SOURCE_DATE_EPOCH="1") == first
    later = sbom("operator", tmp_path / "later.json", SOURCE_DATE_EPOCH="2")
    assert later["serialNumber"] != first["serialNumber"]


def test_a_folder_that_is_no_image_ends_in_a_line(tmp_path: Path) -> None:
    command = [
        sys.executable,
        REPOSITORY / "packaging/sbom.py",
        "agent",
        "--root",
        tmp_path,
        tmp_path / "bill",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "install requirements.lock first" in done.stderr or "Dockerfile" in done.stderr
