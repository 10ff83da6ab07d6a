"""Asking twice is asking once: Idempotency-Key, with servers that are cut off and killed."""

import contextlib
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest

from registry.database.record import Record
from registry.database.requests import Answer, Claim, claim
from registry.identity.accounts import authenticate, note
from registry.settings import Databases
from registry.trust.errors import Conflict, Invalid
from tests.registry.api_stage import PROTOCOL, Stage, client
from tests.registry.role import Role, acting
from tests.registry.test_api import problem

NEW = {"model": "nodule-net", "version": 1, "protocol": PROTOCOL.id, "cohort": "lidc-nodules"}


@pytest.fixture(scope="module")
def stage(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    made = Stage(database, tmp_path_factory.mktemp("facility"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(stage: Stage) -> Iterator[str]:
    with stage.listening() as address:
        yield address


@pytest.fixture(scope="module")
def http(server: str) -> Iterator[httpx.Client]:
    with client(server) as opened:
        yield opened


def fresh() -> str:
    return str(uuid.uuid4())


def count(stage: Stage, model: str) -> int:
    return int(
        stage.worker.execute(
            "SELECT count(*) FROM touchstone.submission WHERE model_name = %s", (model,)
        ).fetchone()[0]
    )


def test_the_same_key_and_request_get_the_first_answer_again(
    stage: Stage, http: httpx.Client
) -> None:
    stage.register("again")
    headers = stage.headers(Idempotency_Key=fresh())
    first = http.post("/submissions", json=NEW | {"model": "again"}, headers=headers)
    assert first.status_code == 201, first.text
    second = http.post("/submissions", json=NEW | {"model": "again"}, headers=headers)
    assert (second.status_code, second.content) == (201, first.content)
    assert second.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert count(stage, "again") == 1
    quoted = headers | {"Idempotency-Key": f'"{headers["Idempotency-Key"]}"'}  # as the draft writes
    assert http.post("/submissions", json=NEW | {"model": "again"}, headers=quoted).content == (
        first.content
    )


def test_a_key_is_for_one_request(stage: Stage, http: httpx.Client) -> None:
    headers = stage.headers("admin", Idempotency_Key=fresh())
    new = {"id": "once-a", "kind": "hospital", "name": "A"}
    assert http.post("/organisations", json=new, headers=headers).status_code == 201
    for path, body in (
        ("/organisations", new | {"name": "B"}),
        ("/organisations?x=1", new),
        ("/tokens", new),
    ):
        assert problem(http.post(path, json=body, headers=headers), 422) == "key_reused"


def test_a_key_belongs_to_one_token(stage: Stage, http: httpx.Client) -> None:
    key = fresh()
    for name in ("both", "theirs"):
        stage.register(name)
        stage.register(name, sme="sme-b")
    mine = http.post("/submissions", json=NEW | {"model": "both"},
                     headers=stage.headers(Idempotency_Key=key))  # fmt: skip
    theirs = http.post("/submissions", json=NEW | {"model": "theirs"},
                       headers=stage.headers("stranger", Idempotency_Key=key))  # fmt: skip
    assert (mine.status_code, theirs.status_code) == (201, 201)
    assert mine.json()["organisation"] != theirs.json()["organisation"]


@pytest.mark.parametrize("key", ["short", "with space here 0123", "ü" * 20, "x" * 129, ""])
def test_a_malformed_key_is_refused(stage: Stage, http: httpx.Client, key: str) -> None:
    headers = [(name.encode(), value.encode()) for name, value in stage.headers("admin").items()]
    answer = http.post("/organisations", json={"id": "none", "kind": "sme", "name": "N"},
                       headers=[*headers, (b"Idempotency-Key", key.encode())])  # fmt: skip
    assert problem(answer, 422) == "key_malformed"


def test_a_refusal_did_nothing_and_frees_the_key(stage: Stage, http: httpx.Client) -> None:
    headers = stage.headers(Idempotency_Key=fresh())
    new = NEW | {"model": "late"}
    assert problem(http.post("/submissions", json=new, headers=headers), 404) == "not_found"
    stage.register("late")
    assert http.post("/submissions", json=new, headers=headers).status_code == 201


def test_a_tokens_secret_is_kept_nowhere(stage: Stage, http: httpx.Client) -> None:
    headers = stage.headers("admin", Idempotency_Key=fresh())
    new = {"organisation": "sme-a", "role": "innovator", "person": "Zoe"}
    first = http.post("/tokens", json=new, headers=headers)
    assert first.status_code == 201, first.text
    assert "no-store" in first.headers["cache-control"]
    again = http.post("/tokens", json=new, headers=headers)
    assert problem(again, 409) == "answer_not_kept"
    issued = "SELECT count(*) FROM touchstone.token WHERE person = 'Zoe'"
    assert stage.owner.execute(issued).fetchone()[0] == 1
    kept = stage.owner.execute("SELECT row_to_json(r)::text FROM touchstone.request r").fetchall()
    secret = first.json()["token"]
    for (row,) in kept:
        assert secret not in row
        assert secret.encode().hex() not in row


def test_ten_at_once_with_one_key_make_one_submission(stage: Stage, server: str) -> None:
    stage.register("ten")
    headers = stage.headers(Idempotency_Key=fresh())
    barrier = threading.Barrier(10)

    def ask(_: int) -> httpx.Response:
        with client(server) as mine:
            barrier.wait()
            while True:
                answer = mine.post("/submissions", json=NEW | {"model": "ten"}, headers=headers)
                if answer.status_code != 409:
                    return answer
                assert answer.json()["code"] == "request_in_flight"
                assert answer.headers["retry-after"] == "1"
                time.sleep(0.05)

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(ask, range(10)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    assert count(stage, "ten") == 1


def test_a_connection_cut_after_the_server_acted_loses_nothing(stage: Stage, server: str) -> None:
    stage.register("cut")
    headers = stage.headers(Idempotency_Key=fresh())
    with client(server) as mine:
        request = mine.build_request("POST", "/submissions", json=NEW | {"model": "cut"},
                                     headers=headers)  # fmt: skip
    raw = b"POST /api/v1/submissions HTTP/1.1\r\n" + b"".join(
        b"%b: %b\r\n" % (name, value) for name, value in request.headers.raw
    )
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(raw + b"\r\n" + request.read())
    # The client has gone before it read a byte of the answer.
    deadline = time.monotonic() + 10
    while count(stage, "cut") == 0:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with client(server) as mine:
        answer = mine.send(request)
        while answer.status_code == 409:
            time.sleep(0.05)
            answer = mine.send(request)
    assert answer.status_code == 201
    assert count(stage, "cut") == 1
    submission = stage.worker.execute(
        "SELECT id FROM touchstone.submission WHERE model_name = 'cut'"
    ).fetchone()[0]
    assert answer.json()["id"] == str(submission)


@pytest.fixture
def caller(stage: Stage) -> Any:
    return authenticate(stage.facility.record, stage.secrets["admin"])


F1, F2 = ("sha256:" + digit * 64 for digit in "12")


def late(stage: Stage, key: str) -> None:
    """Let the hold on a request run out, as when its server was killed."""
    stage.owner.execute(
        "UPDATE touchstone.request SET held_until = now() - interval '1 second' WHERE key = %s",
        (key,),
    )


def write(found: Claim, subject: str) -> None:
    with found.under_way(), found.record.transaction(found.caller) as now:
        note(now, found.caller, "test", subject, {})


def test_a_server_killed_before_it_acted_is_taken_over(stage: Stage, caller: Any) -> None:
    record, key = stage.facility.record, fresh()
    lost = claim(record, caller, key, F1)
    assert isinstance(lost, Claim)
    with pytest.raises(Conflict, match="being carried out"):
        claim(record, caller, key, F1)
    with pytest.raises(Invalid, match="another request"):
        claim(record, caller, key, F2)
    late(stage, key)
    heir = claim(record, caller, key, F1)
    assert isinstance(heir, Claim)
    assert not heir.again
    # The lost one was only slow: what it does now is not done.
    with pytest.raises(Conflict, match="another server"):
        write(lost, "by-the-lost-one")
    write(heir, "by-the-heir")
    written = "SELECT subject FROM touchstone.event WHERE subject LIKE 'by-the-%'"
    assert stage.owner.execute(written).fetchall() == [("by-the-heir",)]
    heir.answered(Answer(201, "application/json", b"{}"))
    assert claim(record, caller, key, F1) == Answer(201, "application/json", b"{}")


def test_a_server_killed_after_it_acted_leaves_word_of_it(stage: Stage, caller: Any) -> None:
    record, key = stage.facility.record, fresh()
    lost = claim(record, caller, key, F1)
    assert isinstance(lost, Claim)
    write(lost, "done-once")
    late(stage, key)
    heir = claim(record, caller, key, F1)
    assert isinstance(heir, Claim)
    assert heir.again
    assert heir.identity == lost.identity
    heir.release()  # a failed second try does not lose the word of the first
    third = claim(record, caller, key, F1)
    assert isinstance(third, Claim)
    assert third.again


def test_a_transaction_that_fails_leaves_no_word_of_an_act(stage: Stage, caller: Any) -> None:
    record, key = stage.facility.record, fresh()
    first = claim(record, caller, key, F1)
    assert isinstance(first, Claim)
    with (
        contextlib.suppress(ZeroDivisionError),
        first.under_way(),
        record.transaction(caller) as now,
    ):
        note(now, caller, "test", "never", {})
        raise ZeroDivisionError
    first.release()
    second = claim(record, caller, key, F2)  # the key is as if it had never been used
    assert isinstance(second, Claim)
    assert not second.again


def test_a_submission_whose_answer_was_lost_with_its_server_is_found_again(
    stage: Stage, http: httpx.Client
) -> None:
    """The server dies between its commit and its answer: the retry gives the same submission."""
    stage.register("lost")
    key = fresh()
    headers = stage.headers(Idempotency_Key=key)
    first = http.post("/submissions", json=NEW | {"model": "lost"}, headers=headers)
    forget_the_answer(stage, key)
    again = http.post("/submissions", json=NEW | {"model": "lost"}, headers=headers)
    assert again.status_code == 201, again.text
    assert again.json()["id"] == first.json()["id"]
    assert count(stage, "lost") == 1


def test_every_other_write_whose_answer_was_lost_is_safe_to_repeat(
    stage: Stage, http: httpx.Client
) -> None:
    key = fresh()
    headers = stage.headers("admin", Idempotency_Key=key)
    new = {"id": "lost-hospital", "kind": "hospital", "name": "L"}
    assert http.post("/organisations", json=new, headers=headers).status_code == 201
    forget_the_answer(stage, key)
    assert http.post("/organisations", json=new, headers=headers).status_code == 201
    # Without the word of an earlier act it is what it looks like: the name is taken.
    other = stage.headers("admin", Idempotency_Key=fresh())
    assert problem(http.post("/organisations", json=new, headers=other), 409) == "conflict"

    key = fresh()
    headers = stage.headers("admin", Idempotency_Key=key)
    person = {"organisation": "sme-a", "role": "innovator", "person": "Yan"}
    assert http.post("/tokens", json=person, headers=headers).status_code == 201
    forget_the_answer(stage, key)
    assert problem(http.post("/tokens", json=person, headers=headers), 409) == "answer_not_kept"
    issued = "SELECT count(*) FROM touchstone.token WHERE person = 'Yan'"
    assert stage.owner.execute(issued).fetchone()[0] == 1


def forget_the_answer(stage: Stage, key: str) -> None:
    """As if the server had died before it could keep its answer."""
    with psycopg.connect(str(stage.database.owner)) as connection:
        connection.execute("ALTER TABLE touchstone.request DISABLE TRIGGER guard")
        connection.execute(
            "UPDATE touchstone.request SET status = NULL, body = NULL, media_type = NULL,"
            " withheld = false WHERE key = %s", (key,),
        )  # fmt: skip
        connection.execute("ALTER TABLE touchstone.request ENABLE TRIGGER guard")


def test_nobody_reads_or_changes_what_another_token_asked(stage: Stage, caller: Any) -> None:
    found = claim(stage.facility.record, caller, fresh(), F1)
    assert isinstance(found, Claim)
    write(found, "mine")
    found.answered(Answer(201, None, b"kept"))
    other = acting(stage.database, "tef", "admin", "Other")
    assert other.execute("SELECT * FROM touchstone.request").fetchall() == []
    assert Role(stage.database.app).execute("SELECT * FROM touchstone.request").fetchall() == []
    mine = Role(stage.database.app, stage.secrets["admin"])
    for statement in (
        "UPDATE touchstone.request SET body = 'forged'",
        "UPDATE touchstone.request SET acted = false",
        "DELETE FROM touchstone.request WHERE acted",
    ):
        with pytest.raises(psycopg.errors.RestrictViolation):
            mine.execute(statement)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        mine.execute("UPDATE touchstone.request SET expires_at = now()")


def test_what_is_expired_is_forgotten(stage: Stage, caller: Any) -> None:
    key = fresh()
    found = claim(stage.facility.record, caller, key, F1)
    assert isinstance(found, Claim)
    write(found, "old")
    found.answered(Answer(201, None, b""))
    with psycopg.connect(str(stage.database.owner)) as connection:
        connection.execute("ALTER TABLE touchstone.request DISABLE TRIGGER guard")
        connection.execute(
            "UPDATE touchstone.request SET expires_at = now() - interval '1 s' WHERE key = %s",
            (key,),
        )
        connection.execute("ALTER TABLE touchstone.request ENABLE TRIGGER guard")
    assert isinstance(claim(stage.facility.record, caller, key, F2), Claim)


def test_a_process_killed_in_the_middle_of_its_act_did_nothing(stage: Stage, caller: Any) -> None:
    """A real process, ended by SIGKILL between its write and its commit."""
    key = fresh()
    program = (
        "import os, signal, sys\n"
        "from registry.database.record import Record\n"
        "from registry.database.requests import claim\n"
        "from registry.identity.accounts import authenticate, note\n"
        "record = Record(sys.argv[1], size=3)\n"
        "caller = authenticate(record, sys.argv[2])\n"
        "found = claim(record, caller, sys.argv[3], sys.argv[4])\n"
        "with found.under_way(), record.transaction(caller) as now:\n"
        "    note(now, caller, 'test', 'half-done', {})\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, stage.database.app, stage.secrets["admin"], key, F1],
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == -9, done.stderr
    half = "SELECT count(*) FROM touchstone.event WHERE subject = 'half-done'"
    assert stage.owner.execute(half).fetchone()[0] == 0
    late(stage, key)
    heir = claim(Record(stage.database.app, size=1), caller, key, F1)
    assert isinstance(heir, Claim)
    assert not heir.again
