"""Attempts, exposure, conditions and agreements from the command line, and asked for twice."""

import uuid

import httpx
import pytest

from registry.trust.errors import Refused
from tests.registry.api_stage import PROTOCOL, Stage
from tests.registry.test_cli_doors import Cli, cli, server, stage, way  # noqa: F401


def test_an_innovator_sees_what_is_left_and_a_steward_what_was_used(cli: Cli) -> None:  # noqa: F811
    left = cli("innovator", "attempts", "--protocol", PROTOCOL.id)
    assert left["attempts"]["allowed"] == PROTOCOL.attempts
    assert left["attempts"]["left"] <= PROTOCOL.attempts
    assert left["cohort"]["id"] == "lidc-nodules"
    used = cli("steward", "cohort", "exposure", "lidc-nodules", "--version", "1")
    assert used["level"] == "fresh"
    assert used["attempts"] == 0


def test_two_stewards_take_an_agreement_to_its_end(
    cli: Cli,  # noqa: F811
    stage: Stage,  # noqa: F811
) -> None:
    before = cli("innovator", "cohort", "conditions", "lidc-nodules", "--version", "2")
    assert before["declared"]
    said = cli("steward", "cohort", "conditions", "lidc-nodules", "--version", "2", "--code",
               "DUO_0000042", "--code", "DUO:0000021", "--words", "by the local board")  # fmt: skip
    assert [one["code"] for one in said["codes"]] == ["DUO:0000021", "DUO:0000042"]
    assert said["codes"][1]["label"] == "general research use"
    name = f"p-{uuid.uuid4().hex[:8]}"
    asked = cli("steward", "cohort", "agreement", "add", "lidc-nodules", "--version", "2",
                "--protocol", name, "--purpose", "validation", "--from", "2026-01-01",
                "--until", "2099-12-31", "--reference", "negotiation-4711")  # fmt: skip
    assert (asked["state"], asked["usable"]) == ("under_review", False)
    for state in ("approved", "representative-contacted", "checking availability",
                  "resource_available", "access-conditions-indicated",
                  "access-conditions-met"):  # fmt: skip
        cli("steward", "cohort", "agreement", "move", asked["id"], "--to", state)
    last = ("cohort", "agreement", "move", asked["id"], "--to", "Resource Made Available")
    with pytest.raises(Refused, match="another steward"):
        cli("steward", *last)
    stage.secrets["second steward"] = stage.sign_in("Uma")
    moved = cli("second steward", *last)
    assert moved["usable"]
    listed = cli("steward", "cohort", "agreement", "list", "lidc-nodules", "--version", "2")
    assert asked["id"] in {one["id"] for one in listed["agreements"]}
    back = cli("steward", "cohort", "conditions", "lidc-nodules", "--version", "2", "--none")
    assert ([one["code"] for one in back["codes"]], back["settled"]) == (["DUO:0000004"], False)
    confirm = ("cohort", "conditions", "lidc-nodules", "--version", "2", "--confirm")
    with pytest.raises(Refused, match="Sam declared it: another steward"):
        cli("steward", *confirm)
    assert cli("second steward", *confirm)["settled"]
    with pytest.raises(Refused, match="waits for you"):
        cli("steward", *confirm)


def test_asking_twice_with_one_key_declares_and_asks_once(
    stage: Stage,  # noqa: F811
    server: str,  # noqa: F811
) -> None:
    http = httpx.Client(base_url=f"{server}/api/v1", trust_env=False)
    headers = stage.headers("steward", Idempotency_Key=uuid.uuid4().hex)
    body = {"codes": ["DUO:0000042"]}
    first, second = (
        http.post("/cohorts/lidc-nodules/conditions?version=2", json=body, headers=headers)
        for _ in range(2)
    )
    assert first.status_code == second.status_code == 201
    assert first.json() == second.json()
    key = stage.headers("steward", Idempotency_Key=uuid.uuid4().hex)
    ask = {"protocol": "x", "purpose": "why", "valid_from": "2026-01-01",
           "valid_until": "2026-12-31", "version": "2"}  # fmt: skip
    ids = {http.post("/cohorts/lidc-nodules/agreements", json=ask, headers=key).json()["id"]
           for _ in range(2)}  # fmt: skip
    assert len(ids) == 1


def test_what_is_not_well_formed_is_refused_in_one_line(
    stage: Stage,  # noqa: F811
    server: str,  # noqa: F811
) -> None:
    http = httpx.Client(base_url=f"{server}/api/v1", trust_env=False)
    for body in ({"codes": ["DUO:0000046"]}, {"codes": []}, {"codes": ["x"]},
                 {"codes": ["DUO:0000042"], "words": "two\nlines"}):  # fmt: skip
        answer = http.post("/cohorts/lidc-nodules/conditions", json=body,
                           headers=stage.headers("steward"))  # fmt: skip
        assert answer.status_code == 422, answer.text
        assert "\n" not in answer.json()["detail"]
    answer = http.post("/cohorts/lidc-nodules/agreements", headers=stage.headers("steward"), json={
        "protocol": "x", "purpose": "why", "valid_from": "2026-02-01",
        "valid_until": "2026-01-01"})  # fmt: skip
    assert answer.status_code == 422
    answer = http.get("/protocols/none/attempts", headers=stage.headers())
    assert answer.status_code == 404
