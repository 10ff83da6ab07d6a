"""A submission carried through an inference server: the same bytes, and its faults are ours."""

import contextlib
import dataclasses
import datetime as dt
import hashlib
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.database.embedded import EmbeddedPostgres
from registry.facility import Facility
from registry.pipeline import canary, parts
from registry.pipeline.carry import carry
from registry.pipeline.overdue import look_at_overdue
from registry.pipeline.parts import help_out
from registry.pipeline.where import server_of, start_model
from registry.settings import Databases, Settings, read_settings
from registry.submissions import places
from registry.submissions.fault import LOCKED_THINGS, SERVERS, Failure, whose
from registry.trust.canonical import hex_of
from registry.trust.errors import Invalid, Refused, Unavailable
from serving.inference import asking
from serving.inference.remote import RemoteSandbox
from serving.sandbox.process import Sandbox
from tests.registry.facility_example import Example, endless, facility_example, honest
from tests.registry.logged import behind_the_triggers
from tests.serving.inference.serving import TOKEN, Server

MODEL = honest(0.7)


@pytest.fixture(scope="module")
def life(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    with facility_example(database, tmp_path_factory.mktemp("remote")) as made:
        yield made


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "PAUSE_SECONDS", 0.01)


def through(life: Example, server: Server) -> Facility:
    """The worker's facility, told of the server."""
    token = server.models.parent / "token"
    settings = dataclasses.replace(
        life.worker.settings, inference=server.address, inference_token=token
    )
    return dataclasses.replace(life.worker, settings=settings)


def carried(life: Example, facility: Facility) -> str:
    with life.turn() as turn:
        assert turn is not None
        return carry(facility, turn)


def ran(life: Example, submission: str) -> tuple[str, dict[str, Any], str]:
    """The digest of the predictions, the evidence of the run, and how its inputs travelled."""
    data = life.worker.store.get(places.predictions(submission))
    [[output]] = life.sql(
        "SELECT output FROM touchstone.step WHERE submission = %s AND name = 'run'", submission
    )
    return hashlib.sha256(data).hexdigest(), output["environment"], output["way"]


@pytest.fixture(scope="module")
def here(life: Example) -> tuple[str, dict[str, Any], str]:
    """What comes out where the model runs in the worker's own process."""
    life.fresh_protocol()
    submission = life.queued(MODEL)
    assert carried(life, life.worker) == "in_review"
    return ran(life, submission)


def place(tmp_path: Path, way: str) -> list[str]:
    """Where a server listens; the same again for one that is started anew."""
    if way == "shared memory":
        return ["--socket", str(tmp_path / "s")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return ["--port", str(free.getsockname()[1])]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["tcp", "shared memory"])
def test_through_a_server_come_the_same_bytes_and_the_same_evidence(
    life: Example, here: tuple[str, dict[str, Any], str], tmp_path: Path, way: str
) -> None:
    with Server(tmp_path, *place(tmp_path, way)) as server:
        life.fresh_protocol()
        submission = life.queued(MODEL)
        assert carried(life, through(life, server)) == "in_review"
        assert server.children() == [], "neither model nor canary is left behind"
    assert ran(life, submission) == (*here[:2], way)
    assert here[2] == "process"


@pytest.mark.parametrize("way", ["shared memory", pytest.param("tcp", marks=pytest.mark.slow)])
def test_a_server_killed_on_the_way_and_started_anew_costs_nothing(
    life: Example,
    here: tuple[str, dict[str, Any], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    where = place(tmp_path, way)
    servers = [Server(tmp_path, *where)]
    keep = parts._keep

    def killed(*given: Any) -> None:
        keep(*given)
        if len(servers) == 1:
            servers[0].stop(signal.SIGKILL)
            servers.append(Server(tmp_path, *where))

    monkeypatch.setattr(parts, "_keep", killed)
    life.fresh_protocol()
    submission = life.queued(MODEL)
    facility = through(life, servers[0])
    try:
        assert carried(life, facility) == "in_review"
    finally:
        for server in servers:
            server.stop()
    assert len(servers) == 2
    assert ran(life, submission) == (*here[:2], way)
    spent = "SELECT count(*) FROM touchstone.attempt WHERE submission = %s"
    assert life.sql(spent, submission) == [(1,)]


@pytest.mark.slow
def test_workers_that_share_a_server_and_a_model_take_nothing_from_each_other(
    life: Example,
    here: tuple[str, dict[str, Any], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The helper's end unloads the model under the leader, which has it loaded again."""
    keep = parts._keep
    monkeypatch.setattr(parts, "_keep", lambda *given: (time.sleep(0.3), keep(*given)))
    helped, over = [0], threading.Event()

    def help_on() -> None:
        while not over.wait(0.05):
            helped[0] += help_out(facility)

    with Server(tmp_path, "--socket", str(tmp_path / "s")) as server:
        facility = through(life, server)
        life.fresh_protocol()
        submission = life.queued(MODEL)
        helper = threading.Thread(target=help_on)
        helper.start()
        try:
            assert carried(life, facility) == "in_review"
        finally:
            over.set()
            helper.join()
    assert helped[0] > 0
    assert ran(life, submission)[:2] == here[:2]


def test_a_server_that_stays_away_is_the_facilitys_fault_and_the_attempt_comes_back(
    life: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "ATTEMPTS", 2)
    keep = parts._keep
    server = Server(tmp_path, "--port", "0")
    monkeypatch.setattr(parts, "_keep", lambda *given: (keep(*given), server.stop(signal.SIGKILL)))
    life.fresh_protocol()
    submission = life.queued(MODEL)
    facility = through(life, server)
    with pytest.raises(Unavailable, match="inference server"):
        carried(life, facility)
    assert (life.state(submission), life.attempt(submission)) == ("running", "spent")
    late = life.row(submission)["deadline"] + dt.timedelta(seconds=1)
    assert (submission, "Fail") in look_at_overdue(facility, late)
    assert life.state(submission) == "technical_failure"
    assert life.attempt(submission) == "returned"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server"), "--port", "0") as running:
        yield running


@pytest.mark.parametrize("answers", [False, True])
def test_a_server_that_is_back_at_the_deadline_blames_no_model_that_waited_for_it(
    life: Example,
    server: Server,
    cluster: EmbeddedPostgres,
    monkeypatch: pytest.MonkeyPatch,
    answers: bool,
) -> None:
    """The canary passes by then. A model that answered since is slow, and was not kept waiting."""
    monkeypatch.setattr(asking, "ATTEMPTS", 2)
    superuser = cluster.superuser_dsn.replace("@/touchstone?", "@/test_remote_runs?")
    keep = parts._keep

    def one_part(*given: Any) -> None:
        keep(*given)
        raise Unavailable("this worker is lost")

    monkeypatch.setattr(parts, "_keep", one_part)
    life.fresh()
    submission = life.queued(honest(0.6))
    with pytest.raises(Unavailable, match="lost"):
        carried(life, life.worker)
    back = through(life, server)
    [nowhere] = place(server.models, "tcp")[1:]
    away = dataclasses.replace(back.settings, inference=f"http://127.0.0.1:{nowhere}")
    with pytest.raises(Unavailable, match="inference server"):
        carried(life, dataclasses.replace(back, settings=away))
    turns = "SELECT outcome, code FROM touchstone.turn WHERE submission = %s ORDER BY number"
    assert life.sql(turns, submission)[-1] == ("again", "inference_unreachable")
    time.sleep(2)
    with life.turn() as turn:
        if answers:
            with pytest.raises(Unavailable, match="lost"):
                carry(back, turn)
        behind_the_triggers(
            superuser,
            "UPDATE touchstone.submission SET deadline = clock_timestamp()"
            f" WHERE id = '{submission}'",
        )
        done = look_at_overdue(back, dt.datetime.now(dt.UTC))
    assert (submission, "Fail") in done
    [(party, evidence)] = life.sql(
        "SELECT party, evidence FROM touchstone.finding WHERE submission = %s", submission
    )
    assert evidence["kept_waiting"] is not answers
    assert party == ("model" if answers else "facility")
    assert life.attempt(submission) == ("spent" if answers else "returned")
    assert canary.sound(lambda: start_model(back))


def test_a_model_that_was_changed_at_the_server_ends_as_the_facilitys_fault(
    life: Example, server: Server
) -> None:
    life.fresh_protocol()
    submission = life.queued(MODEL)
    directory = server.models / hex_of(life.row(submission)["model_digest"])
    directory.mkdir()
    (directory / "model.onnx").write_bytes(honest(0.9))
    assert carried(life, through(life, server)) == "technical_failure"
    row = life.row(submission)
    assert row["failure_code"] == "model_tampered"
    party = "SELECT party FROM touchstone.finding WHERE submission = %s"
    assert life.sql(party, submission) == [("facility",)]
    assert life.attempt(submission) in (None, "returned")


@pytest.mark.slow
def test_what_the_model_does_wrong_at_a_server_stays_the_models(
    life: Example, tmp_path: Path
) -> None:
    with Server(tmp_path, "--port", "0", "--seconds", "0.3") as server:
        life.fresh_protocol()
        submission = life.queued(endless())
        assert carried(life, through(life, server)) == "technical_failure"
    assert life.row(submission)["failure_code"] == "model_timeout"
    party = "SELECT party FROM touchstone.finding WHERE submission = %s"
    assert life.sql(party, submission) == [("model",)]
    assert life.attempt(submission) == "spent"


def test_no_code_of_a_server_is_ever_the_models() -> None:
    for code in (*SERVERS, "model_tampered"):
        for canary_after in (None, True, False):
            for blamed in (True, False):
                failure = Failure(code, True, canary_after, blamed)
                assert whose(failure).ours, code
    assert "model_tampered" in LOCKED_THINGS


def test_a_server_that_locks_nothing_down_is_refused_and_says_what_to_do(
    life: Example, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    facility = through(life, server)
    introduce = RemoteSandbox._introduce

    def bare(self: RemoteSandbox, value: dict[str, Any]) -> None:
        value["sandbox"]["level"]["seccomp"] = False
        introduce(self, value)

    monkeypatch.setattr(RemoteSandbox, "_introduce", bare)
    with pytest.raises(Refused, match="without seccomp"):
        start_model(facility)
    with start_model(facility, allow_unsandboxed=True) as model:
        assert isinstance(model, RemoteSandbox)
        assert model.at_once > Sandbox.at_once
    with contextlib.closing(start_model(life.worker)) as own:
        assert isinstance(own, Sandbox)


@pytest.mark.parametrize(
    ("address", "token", "said"),
    [
        ("ftp://gpu:1", True, "no address"),
        ("http://gpu", True, "no address"),
        ("http://gpu:8600", False, "TOKEN_FILE"),
        ("unix:/run/i", "short", "at least 32"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    tmp_path: Path, address: str, token: bool | str, said: str
) -> None:
    file = tmp_path / "token"
    file.write_text(token if isinstance(token, str) else TOKEN)
    given = {"TOUCHSTONE_INFERENCE": address}
    if token:
        given["TOUCHSTONE_INFERENCE_TOKEN_FILE"] = str(file)
    with pytest.raises(Invalid, match=said):
        server_of(read_settings(given))


def test_without_the_setting_there_is_no_server(tmp_path: Path) -> None:
    settings: Settings = read_settings({"TOUCHSTONE_INFERENCE": ""})
    assert server_of(settings) is None
