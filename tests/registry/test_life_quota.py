"""Quotas that hold when ten ask at once, and that are shown to their own."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from registry.settings import Databases
from registry.submissions.quota import NewQuota, change, shown, take_storage
from registry.submissions.withdraw import withdraw
from registry.trust.errors import NotFound, Refused, TouchstoneError
from tests.registry.facility_example import Example, facility_example
from tests.registry.mlflow_server import Gate
from tests.registry.role import acting


@pytest.fixture(scope="module")
def life(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    with facility_example(database, tmp_path_factory.mktemp("quota")) as made:
        yield made


@pytest.fixture(autouse=True)
def fresh(life: Example) -> None:
    life.fresh()


def at_once(count: int, function: Any) -> list[str]:
    """What each of `count` callers at the same moment gets: `done`, or the code of the refusal."""
    together = threading.Barrier(count)

    def one(number: int) -> str:
        together.wait()
        try:
            function(number)
        except TouchstoneError as error:
            return error.code
        return "done"

    with ThreadPoolExecutor(count) as pool:
        return sorted(pool.map(one, range(count)))


def quota(life: Example, organisation: str, **limits: int) -> dict[str, Any]:
    return change(life.api, life.people["Ann"], organisation, NewQuota(**limits))


def test_ten_submissions_at_once_are_no_more_than_the_quota(life: Example) -> None:
    quota(life, "sme-b", waiting=3)
    for _ in range(2):
        said = at_once(10, lambda _: life.submitted("Finn"))
        assert said == ["done"] * 3 + ["quota_used_up"] * 7
        assert shown(life.api, life.people["Finn"], "sme-b")["waiting"] == {
            "allowed": 3, "used": 3,
        }  # fmt: skip
        for (name,) in life.sql(
            "SELECT id::text FROM touchstone.submission WHERE organisation = 'sme-b'"
            " AND state = 'registered'"
        ):
            withdraw(life.api, life.people["Finn"], name, "room for others")
        life.fresh_protocol()
    quota(life, "sme-b", waiting=20)


def test_used_up_compute_refuses_the_next_and_not_what_is_under_way(life: Example) -> None:
    submission = life.submitted("Finn")
    life.sql(
        "INSERT INTO touchstone.turn (submission, organisation, worker, began_at, ended_at, state,"
        " outcome) VALUES (%s, 'sme-b', 'w', now() - interval '3 hours', now(), 'running', 'done'),"
        " (%s, 'sme-b', 'w', now() - interval '50 days', now() - interval '40 days', 'running',"
        " 'done')", submission, submission,
    )  # fmt: skip
    used = shown(life.api, life.people["Finn"], "sme-b")["compute_seconds"]["used"]
    assert used == pytest.approx(3 * 3600, abs=60), "30 days, no more"
    quota(life, "sme-b", compute_seconds=7200)
    with pytest.raises(Refused, match=r"used its 2\.0 hours") as refused:
        life.submitted("Finn")
    assert refused.value.code == "quota_used_up"
    with life.turn() as turn:
        assert turn.submission == submission
    quota(life, "sme-b", compute_seconds=10**6)
    life.submitted("Finn")


def test_ten_uploads_at_once_store_no_more_than_the_quota(life: Example) -> None:
    quota(life, "sme-b", storage_bytes=1000)
    finn = life.people["Finn"]
    said = at_once(10, lambda _: take_storage(life.api.record, finn, 300))
    assert said == ["done"] * 3 + ["quota_storage"] * 7
    assert shown(life.api, finn, "sme-b")["storage_bytes"] == {"allowed": 1000, "used": 900}
    take_storage(life.api.record, finn, -900)


def test_a_quota_is_shown_to_its_own_and_set_by_an_administrator(life: Example) -> None:
    for who in ("Finn", "Clara"):
        with pytest.raises((Refused, NotFound)):
            shown(life.api, life.people[who], "sme-a")
    for who in ("Eva", "Sam", "Aud", "Ann"):
        assert shown(life.api, life.people[who], "sme-a")["organisation"] == "sme-a"
    for who in ("Eva", "Sam", "Ada", "Aud", "Clara"):
        with pytest.raises(Refused):
            change(life.api, life.people[who], "sme-a", NewQuota(waiting=10**5))
    eva = acting(life.api.databases, "sme-a", "innovator", "Eva")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        eva.execute("INSERT INTO touchstone.quota VALUES ('sme-a', 1, 1, 1, 'Eva')")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        eva.execute("SELECT * FROM touchstone.use_of('sme-b')")
    assert eva.execute("SELECT * FROM touchstone.quota_shown('sme-b')").fetchall() == []
    assert eva.execute("UPDATE touchstone.quota SET waiting = 9999, set_by = 'Eva'").rowcount == 0


def test_an_upload_over_the_quota_is_refused_and_leaves_nothing(gate: Gate) -> None:
    gate.sql("INSERT INTO touchstone.storage_use VALUES ('sme-b', 0) ON CONFLICT DO NOTHING")

    def used() -> int:
        return int(gate.sql(
            "SELECT bytes FROM touchstone.storage_use WHERE organisation = 'sme-b'")[0][0]
        )  # fmt: skip

    _, folder = gate.logged_model("sme-b")
    before = used()
    assert gate.put(f"{folder}/small.onnx", b"x" * 1000, "sme-b").status_code == 200
    assert used() == before + 1000
    assert gate.put(f"{folder}/small.onnx", b"y" * 500, "sme-b").status_code >= 400
    assert used() == before + 1000, "what was not stored is given back"
    gate.sql("INSERT INTO touchstone.quota VALUES ('sme-b', %s, NULL, NULL, 'Ann')", before + 2000)
    try:
        for content in (b"x" * 1500, (b"x" * 100 for _ in range(15))):
            answer = gate.put(f"{folder}/large.onnx", content, "sme-b")
            assert answer.status_code == 413
            assert "ask the facility for more" in answer.json()["message"]
            assert answer.json()["code"] == "quota_storage"
        assert used() == before + 1000
        listed = gate.sql("SELECT 1")  # the server is well
        assert listed == [(1,)]
        found = gate.ask("GET", f"/api/2.0/mlflow-artifacts/artifacts/{folder}/large.onnx", "sme-b")
        assert found.status_code == 404
        assert gate.put(f"{folder}/fits.onnx", b"x" * 900, "sme-b").status_code == 200
    finally:
        gate.sql("UPDATE touchstone.quota SET storage_bytes = NULL WHERE organisation = 'sme-b'")
