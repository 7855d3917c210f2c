"""Files as people have them: many documents, lists, templates, halves; what cannot be read is told, not passed over."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.checks.result import Status
from probe.checking.documents import read_documents
from probe.errors import ProbeError, UsageError
from tests.checks.manifests import CONTROLLER, DEPLOYMENT, SEED, Manifests, codes, open_checks, seed
from tests.cli.helpers import Ending, ended, start

TARGET = ("-n", "ingress-nginx", "svc/ingress-nginx-controller")


def checked(*files: Path, options: tuple[str, ...] = ()) -> Ending:
    given = [part for path in files for part in ("-f", str(path))]
    return ended(start("check", *given, *TARGET, "-o", "json", *options))


def written(folder: Path, text: str, name: str = "objects.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_documents_lists_and_folders_are_one(tmp_path: Path) -> None:
    as_list = seed().written(tmp_path)
    assert len(read_documents([SEED]).items) == len(read_documents([as_list]).items)


def test_a_half_written_document_is_named_and_hides_no_other(tmp_path: Path) -> None:
    broken = written(
        tmp_path, "kind: ConfigMap\nmetadata: {name: half\n---\nkind: Thing\nmetadata: {name: whole}\n"
    )
    found = read_documents([broken])
    assert [item["metadata"]["name"] for item in found.items] == ["whole"]
    (problem,) = found.problems
    assert "document 1 is not YAML" in problem


def test_what_was_not_read_leaves_the_answer_open(tmp_path: Path) -> None:
    ending = checked(SEED, written(tmp_path, "kind: {{ .Values.kind }}\n"))
    assert ending.code == 4
    (told,) = [each for each in ending.json["results"] if each["check"] == "documents"]
    assert told["status"] == "not checked"
    assert "helm template" in told["detail"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("just words\n", "is no object of Kubernetes"),
        ("metadata: {name: x}\n", "has no kind"),
        ("kind: Service\n", "has no metadata.name"),
        ('{"kind": "Service", ', "is not JSON"),
        ("[1, 2]", "is no object of Kubernetes"),
        ("kind: Service\nmetadata: {name: 3}\n", "has no metadata.name"),
    ],
)
def test_what_is_no_object_is_named(text: str, words: str, tmp_path: Path) -> None:
    found = read_documents([written(tmp_path, text)])
    assert not found.items
    assert words in found.problems[0]


def test_aliases_cannot_make_a_small_file_a_large_one(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 10)}]" for at in range(1, 9)]
    found = read_documents([written(tmp_path, "kind: ConfigMap\nmetadata: {name: x}\n" + "\n".join(lines))])
    assert not found.items
    assert "values" in found.problems[0]


def test_one_that_is_given_twice_is_told(tmp_path: Path) -> None:
    again = "kind: ConfigMap\nmetadata: {name: ingress-nginx-controller, namespace: ingress-nginx}\n"
    ending = checked(SEED, written(tmp_path, again))
    assert any("more than once" in each["detail"] for each in ending.json["results"])


def test_objects_without_a_namespace_are_in_the_one_that_is_asked_about() -> None:
    them = seed()
    for item in them.items:
        if item["metadata"].get("namespace") == "ingress-nginx":
            del item["metadata"]["namespace"]
    assert codes(them.report()) == set()


def test_what_the_files_lack_is_not_taken_for_absent() -> None:
    them = Manifests([seed().the(CONTROLLER)])
    report = them.report(live=False)
    said = open_checks(report)
    assert {"spread", "zones", "share", "proxy-protocol", "real-ip", "application"} <= set(said)
    assert report.exit_code == 4, "whom the ingress believes is essential"
    assert not codes(report)


def test_an_odd_object_is_left_out_and_told() -> None:
    them = seed().set(DEPLOYMENT, "spec", "nonsense")
    report = them.report()
    assert any("deployments cannot be read" in each for each in report.remarks)
    assert "spread" in open_checks(report)


@pytest.mark.parametrize("path", ["spec.template.spec.containers", "spec.template.spec.topologySpreadConstraints",
                                  "spec.template.metadata.labels", "spec.replicas",
                                  "spec.template.spec.terminationGracePeriodSeconds"])  # fmt: skip
@pytest.mark.parametrize("value", ["text", {"a": 1}, [1, 2], -1, True])
def test_no_field_of_a_wrong_type_is_a_defect(path: str, value: object) -> None:
    report = seed().set(DEPLOYMENT, path, value).report()
    assert all(isinstance(each.status, Status) for each in report.results)


ODD = (
    None,
    1,
    -5,
    True,
    "x",
    "\x1b[31m",
    [],
    {},
    [1, {"a": 2}],
    {"a": [1]},
    10**12,
    2.5,
    "10.0.0.0/99",
    [None],
)


def places(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every field and entry."""
    if isinstance(value, dict | list):
        for key, inside in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*path, key)
            yield from places(inside, (*path, key))


@pytest.mark.parametrize("number", range(8))
def test_whatever_stands_in_objects_there_is_an_answer_or_an_error_in_order(number: int) -> None:
    dice = random.Random(number)
    for _ in range(50):
        them = seed()
        for _ in range(dice.choice([1, 1, 2, 4])):
            known = [path for path in places(them.items) if len(path) > 2 and path[-1] != "name"]
            path = dice.choice(known)
            place: Any = them.items
            for step in path[:-1]:
                place = place[step]
            place[path[-1]] = copy.deepcopy(dice.choice(ODD))
        with contextlib.suppress(ProbeError):
            them.report()


def test_a_service_that_is_not_there_is_an_error_of_its_own(tmp_path: Path) -> None:
    checked(written(tmp_path, "kind: Service\nmetadata: {name: other}\n")).complains(5, "there is no Service")


def test_an_empty_folder_says_what_it_wants(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.yaml"):
        read_documents([tmp_path])
    checked(tmp_path / "nowhere").complains(2, "cannot read")
