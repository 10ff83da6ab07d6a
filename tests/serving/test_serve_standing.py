"""A certificate that no longer stands answers nobody, and answers again when it stands again."""

import datetime as dt
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.trust.errors import Refused, Tampered, Unavailable
from serving.bundle.standing import Standing
from serving.hospital.watching import Watch
from tests.serving import certified
from tests.serving.certified import EXPLODE
from tests.serving.hospital_made import Running, write
from tests.serving.hospital_program import row, say_of
from tests.serving.test_server import inputs, problem

EVERY = 0.1
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def status(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("status") / "status.json"
    say_of(path, others=row())
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospital")
    return write(certified.facility(), certified.model(traps=True), folder / "nodule-3")


@pytest.fixture(scope="module")
def running(bundle: Path, status: Path) -> Iterator[Running]:
    made = Running(bundle, bundle.parent / "root.pem", {"every": EVERY}, standing=status,
                   log=bundle.parent / "told.jsonl")  # fmt: skip
    assert made.url, made.lines
    yield made
    made.stop()


@pytest.fixture
def client(running: Running, status: Path) -> Iterator[httpx.Client]:
    say_of(status, others=row())
    with httpx.Client(base_url=running.url, timeout=30) as client:
        until(lambda: client.get("/health/ready").status_code == 200)
        yield client


def until(true: Callable[[], bool], seconds: float = 30.0) -> float:
    """Seconds until it is true; fails after `seconds`."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, "it never came"
        time.sleep(0.01)
    return time.monotonic() - began


def predict(client: httpx.Client) -> httpx.Response:
    return client.post("/v1/predict", json={"inputs": inputs()})


@pytest.mark.parametrize("state", ["revoked", "suspended"])
def test_a_model_that_is_taken_back_stops_within_one_interval_and_comes_back(
    client: httpx.Client, status: Path, state: str
) -> None:
    before = predict(client)
    assert before.status_code == 200
    say_of(status, others=row(state, "the outputs drifted at two sites"))
    took = until(lambda: predict(client).status_code != 200)
    assert took < EVERY + 3, "one interval, and what a loaded machine takes for a request"
    refused = predict(client)
    assert problem(refused, 403) == state
    assert "the outputs drifted at two sites" in refused.json()["detail"]
    assert "ask the facility what to do" in refused.json()["detail"]
    assert problem(client.get("/health/ready"), 403) == state
    assert client.get("/health/live").json() == {"live": True}
    label = client.get("/v1/model").json()
    assert label["in_force"] is False
    assert label["standing"]["state"] == state
    assert "touchstone_certificate_in_force 0.0" in client.get("/metrics").text
    say_of(status, others=row())
    until(lambda: client.get("/health/ready").status_code == 200)
    assert predict(client).json() == before.json()


def test_a_status_that_is_not_renewed_ends(client: httpx.Client, status: Path) -> None:
    say_of(status, others=row(seconds=1.0))
    until(lambda: predict(client).status_code != 200)
    refused = predict(client)
    assert problem(refused, 403) == "status_expired"
    assert "fetch a newer one" in refused.json()["detail"]


def test_a_status_that_can_t_be_read_lets_the_last_good_one_end_and_no_sooner(
    client: httpx.Client, status: Path
) -> None:
    say_of(status, others=row(seconds=1.2))
    until(lambda: (client.get("/v1/model").json()["standing"]["use_until"] or "9") < _in(2))
    status.write_text("{")
    until(lambda: client.get("/v1/model").json()["standing"]["last_check"] == "bad_status")
    until(lambda: predict(client).status_code != 200)
    assert client.get("/v1/model").json()["standing"]["use_until"] <= _in(0), "no sooner"
    assert problem(predict(client), 403) == "status_expired"
    say_of(status, others=row())
    until(lambda: predict(client).status_code == 200)


def _in(seconds: float) -> str:
    return (dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)).isoformat()


def test_what_is_revoked_or_without_a_status_is_not_served_at_all(
    bundle: Path, tmp_path: Path
) -> None:
    status = tmp_path / "status.json"
    for text, code in ((json.dumps({"others": row("revoked", "unsafe")}), "revoked"),
                       ("{", "bad_status")):  # fmt: skip
        status.write_text(text)
        made = Running(bundle, bundle.parent / "root.pem", standing=status)
        assert made.url == ""
        assert made.stop() == 1
        assert made.lines[-1].startswith(code)


def test_each_prediction_is_told_with_what_the_monitoring_needs(
    client: httpx.Client, bundle: Path
) -> None:
    given = {"inputs": inputs(), "cases": ["p-17", "p-18"]}
    answer = client.post("/v1/predict", json=given).json()
    assert answer["cases"] == ["p-17", "p-18"]
    log = bundle.parent / "told.jsonl"

    def rows() -> list[dict[str, Any]]:
        found = [json.loads(line) for line in log.read_text().splitlines()]
        return [row for row in found if row["case"] in ("p-17", "p-18")]

    until(lambda: log.exists() and len(rows()) == 2)
    first, second = rows()
    told = [row["scores"]["probability"] for row in (first, second)]
    assert told == answer["outputs"]["probability"]
    assert first["certificate"] == answer["certificate"]
    assert (first["failure"], first["patient"]) == ("", None)
    assert 0 < first["seconds"] < 30
    assert first["inputs"]["descriptors.mean"] == 3.0
    assert first["inputs"]["descriptors.maximum"] == 4.0
    assert first["inputs"]["image.minimum"] == 0.0


def test_a_failure_of_the_model_is_told_too(client: httpx.Client, bundle: Path) -> None:
    given = {"inputs": inputs(first=EXPLODE), "cases": ["p-27", "p-28"]}
    response = client.post("/v1/predict", json=given)
    assert problem(response, 503) == "model_out_of_memory"
    log = bundle.parent / "told.jsonl"
    until(lambda: log.exists() and "p-28" in log.read_text())
    row = json.loads(log.read_text().splitlines()[-1])
    assert (row["scores"], row["failure"]) == ({}, "model_out_of_memory")


@pytest.mark.parametrize(
    "cases", [["p-17"], ["p-17", "p-17"], ["p 17", "x"], "ab", [1, 2], ["Müller", "x"], [None, "x"]]
)
def test_names_of_cases_that_are_no_pseudonyms_are_refused(
    client: httpx.Client, cases: Any
) -> None:
    response = client.post("/v1/predict", json={"inputs": inputs(), "cases": cases})
    assert problem(response, 422) == "bad_case"
    assert "Müller" not in response.text


# -- the rule alone ----------------------------------------------------------------------------


def test_without_an_answer_nothing_is_predicted_and_with_one_until_its_end() -> None:
    now = START
    answers: list[Standing | Exception] = []

    def standing_of(statement: str, at: dt.datetime) -> Standing:
        assert (statement, at) == ("sha256:x", now)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    watch = Watch("sha256:x", standing_of, lambda: now)
    with pytest.raises(Unavailable):
        watch.require()
    answers.append(Tampered("the status went back", code="rolled_back"))
    watch.check()
    with pytest.raises(Tampered) as raised:
        watch.require()
    assert raised.value.code == "rolled_back"
    answers.append(Standing("in_force", "", START, START + dt.timedelta(hours=2)))
    watch.check()
    watch.require()
    answers.append(ValueError("a fault"))
    watch.check()
    now = START + dt.timedelta(hours=2)
    watch.require()
    now += dt.timedelta(seconds=1)
    with pytest.raises(Refused) as ended:
        watch.require()
    assert ended.value.code == "status_expired"
    told = watch.told()
    assert told is not None
    assert told["last_check"] == "status_unreadable"


def test_a_revocation_is_not_forgotten_where_the_status_is_damaged_afterwards() -> None:
    answers: list[Standing | Exception] = [
        Standing("revoked", "unsafe", START, START + dt.timedelta(hours=2)),
        OSError("the folder is away"),
    ]

    def standing_of(_: str, __: dt.datetime) -> Standing:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    watch = Watch("sha256:x", standing_of, lambda: START)
    for _ in range(2):
        watch.check()
        with pytest.raises(Refused) as raised:
            watch.require()
        assert raised.value.code == "revoked"
