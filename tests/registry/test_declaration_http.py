"""A maker's declaration over HTTP, and from a file on the command line."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from registry.cli.main import app
from registry.settings import Databases
from registry.submissions import places
from registry.trust.canonical import sha256_bytes
from registry.trust.errors import Invalid, NotFound
from tests.registry.api_stage import CONTRACT, Stage, client
from tests.registry.further_example import DEVELOPMENT
from tests.registry.made_manifest import made_manifest
from tests.registry.test_api import problem
from tests.validators import evidence_made
from validators.cohort.manifest import manifest_bytes, manifest_path
from validators.declaration import parse_declaration
from validators.protocol.questions import Drift
from validators.protocol.schema import CohortRequirement

ETHICS = "approval by an ethics committee"
RULES = evidence_made.protocol(
    id="asks-its-maker", contract=CONTRACT, cohort=CohortRequirement(id="lidc-nodules"),
    attempts=10, drift=Drift(), regulatory_references=(ETHICS,),
)  # fmt: skip
WHOLE: dict[str, Any] = {
    "development": DEVELOPMENT, "regulatory_references": {ETHICS: "EC 2026/114"},
}  # fmt: skip


@pytest.fixture(scope="module")
def stage(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    made = Stage(database, tmp_path_factory.mktemp("facility"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(stage: Stage) -> Iterator[str]:
    with stage.listening() as address:
        with client(address) as http:
            rules = RULES.model_dump(mode="json")
            made = http.post("/protocols", json=rules, headers=stage.headers("steward"))
            assert made.status_code == 201, made.text
        yield address


@pytest.fixture
def http(server: str) -> Iterator[httpx.Client]:
    with client(server) as made:
        yield made


def asked(stage: Stage, model: str, **more: Any) -> dict[str, Any]:
    stage.register(model)
    return {"model": model, "version": 1, "protocol": RULES.id, "cohort": "lidc-nodules", **more}


def test_it_is_sent_with_the_submission_and_its_digest_comes_back(
    stage: Stage, http: httpx.Client
) -> None:
    me = stage.headers()
    answer = http.post("/submissions", json=asked(stage, "declared", declaration=WHOLE), headers=me)
    assert answer.status_code == 201, answer.text
    digest = parse_declaration(WHOLE).digest
    assert answer.json()["declaration"] == digest
    assert stage.facility.store.exists(places.declaration(digest))
    shown = http.get(f"/submissions/{answer.json()['id']}", headers=stage.headers("assessor"))
    assert shown.json()["declaration"] == digest


def test_what_is_missing_or_odd_is_one_line(stage: Stage, http: httpx.Client) -> None:
    me = stage.headers()
    for given in ({}, {"declaration": None}, {"declaration": {}}):
        answer = http.post("/submissions", json=asked(stage, "lacking", **given), headers=me)
        assert problem(answer, 403) == "declaration_missing"
        assert "development" in answer.json()["detail"]
    for odd in (WHOLE | {"patients": 3}, {"development": {"id": "x"}}, [], "file", 7):
        answer = http.post("/submissions", json=asked(stage, "odd", declaration=odd), headers=me)
        assert problem(answer, 422) == "invalid"
    text = json.dumps(asked(stage, "odd", declaration=WHOLE)).replace("61.0", "NaN")
    assert "NaN" in text
    json_type = {"Content-Type": "application/json"}
    answer = http.post("/submissions", content=text, headers=me | json_type)
    assert problem(answer, 422) == "malformed_json"


def test_a_gigabyte_is_turned_away_at_the_door(stage: Stage, http: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        yield b'{"declaration": {"regulatory_references": {"x": "'
        for _ in range(1024):
            yield b"y" * (1 << 20)

    headers = stage.headers() | {"Content-Type": "application/json"}
    try:
        answer = http.post("/submissions", content=endless(), headers=headers)
    except httpx.WriteError:
        return  # the server hung up while we were still sending
    assert problem(answer, 413) == "too_large"


def test_the_command_line_reads_the_file_before_it_sends_anything(
    stage: Stage, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for name in [name for name in os.environ if name.startswith(("TOUCHSTONE_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TOUCHSTONE_SERVER", server)
    monkeypatch.setenv("TOUCHSTONE_TOKEN", stage.secrets["innovator"])
    stage.register("from-a-file")
    path = tmp_path / "declaration.yaml"
    command = ["submit", "models:/from-a-file/1", "--protocol", RULES.id,
               "--cohort", "lidc-nodules", "--declaration", str(path)]  # fmt: skip
    path.write_text("developement: {}\n")
    with pytest.raises(Invalid, match=r"declaration\.yaml: there is no field developement"):
        app([*command, "--json"], standalone_mode=False)
    path.write_text("development: {id: .nan}\n")
    with pytest.raises(Invalid, match="finite number"):
        app([*command, "--json"], standalone_mode=False)
    path.write_text(yaml.safe_dump(WHOLE))
    capsys.readouterr()
    app(command, standalone_mode=False)
    said = "".join(capsys.readouterr().out.split())
    assert parse_declaration(WHOLE).digest in said


def test_the_drift_page_is_fetched_by_the_facility_s_people(
    stage: Stage, server: str, http: httpx.Client, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    submission = stage.submission()
    asked_for = {"drift": "true"}
    where = f"/submissions/{submission}/report.html"
    answer = http.get(where, params=asked_for, headers=stage.headers("assessor"))
    assert problem(answer, 404) == "not_found"
    stage.facility.store.put(places.drift_page(submission), b"<!doctype html><p>age 71")
    for who, status in (("assessor", 200), ("innovator", 403), ("clinician", 403)):
        answer = http.get(where, params=asked_for, headers=stage.headers(who))
        assert answer.status_code == status, who
        assert (b"age 71" in answer.content) == (status == 200)
    monkeypatch.setenv("TOUCHSTONE_SERVER", server)
    monkeypatch.setenv("TOUCHSTONE_TOKEN", stage.secrets["assessor"])
    app(["report", submission, "--drift", "--out", str(tmp_path), "--json"], standalone_mode=False)
    files = json.loads(capsys.readouterr().out)["files"]
    assert [Path(path).name for path in files] == ["report.json", "report.html", "drift.html"]
    assert b"age 71" in (tmp_path / "drift.html").read_bytes()
    with pytest.raises(Invalid, match="--out"):
        app(["report", submission, "--drift", "--json"], standalone_mode=False)
    without = stage.submission()
    with pytest.raises(NotFound, match="no drift page"):
        app(["report", without, "--drift", "--out", str(tmp_path)], standalone_mode=False)


def test_of_a_later_cohort_that_does_not_fit_a_submitter_learns_no_more_than_that(
    stage: Stage, http: httpx.Client
) -> None:
    """Last in this file: from here on the cohort's latest version lacks an attribute."""
    manifest = made_manifest("lidc-nodules", "3", RULES.contract.digest, {"site": {"head": 600}})
    data, path = manifest_bytes(manifest), manifest_path("lidc-nodules", "3")
    stage.facility.store.put(path, data)
    stage.owner.execute(
        "INSERT INTO touchstone.cohort SELECT id, '3', %s, %s, %s, title, positives, negatives,"
        " patients, contract_digest, locked_by FROM touchstone.cohort WHERE version = '1'",
        (manifest.root, sha256_bytes(data), path),
    )
    body = asked(stage, "late", declaration=WHOLE)
    answer = http.post("/submissions", json=body, headers=stage.headers())
    assert problem(answer, 403) == "cohort_unfit"
    assert not {"'sex'", "sex", "site"} & set(answer.json()["detail"].split())
