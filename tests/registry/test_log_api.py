"""The log as auditors and SMEs reach it: over HTTP, with the command line, and without either."""

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI, Header

from registry.api import audit
from registry.api.problems import install
from registry.audit.checkpoints import make_checkpoint, path_of
from registry.audit.reads import note_read
from registry.database.embedded import EmbeddedPostgres
from registry.database.record import Record
from registry.facility import Facility
from registry.identity import accounts
from registry.identity.caller import Caller
from registry.settings import Databases
from registry.trust import merkle
from registry.trust.canonical import canonical
from registry.trust.checkpoint import cosignature_line, parse, verifier_key, with_line
from tests.registry.logged import PEOPLE, behind_the_triggers, facility_over, log_some, person

SUBMISSION = str(uuid.uuid4())


@dataclass(frozen=True)
class Served:
    """A server with the log's routes, and a token of each of PEOPLE."""

    url: str
    tokens: dict[str, str]
    facility: Facility
    database: Databases

    def get(self, who: str, path: str, **query: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.tokens[who]}"}
        return httpx.get(f"{self.url}/api/v1/audit{path}", params=query or None, headers=headers)

    def run(self, who: str, *arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
        """The command line, as `who`, on a machine of their own."""
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(cwd), "TOUCHSTONE_HOME": str(cwd / "none"),
            "TOUCHSTONE_SERVER": self.url, "TOUCHSTONE_TOKEN": self.tokens[who],
        }  # fmt: skip
        return subprocess.run(
            [sys.executable, "-m", "registry.cli.main", "audit", *arguments],
            env=environment | {"PYTHONPATH": str(Path.cwd())}, cwd=cwd, capture_output=True,
            text=True, timeout=60, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def served(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    facility = facility_over(database, tmp_path_factory.mktemp("facility"))
    tokens = {name: person(database, name)[1] for name in PEOPLE}
    app = FastAPI()
    install(app)

    def caller_of(authorization: Annotated[str | None, Header()] = None) -> Caller:
        return accounts.authenticate(facility.record, accounts.bearer(authorization))

    app.include_router(audit.router(facility, caller_of))
    log_some(database, 3)
    log_some(database, 2, organisation="sme-b")
    worker = replace(facility, record=Record(str(database.worker), size=1))
    row = {"id": SUBMISSION, "organisation": "sme-a", "cohort_id": "c", "cohort_version": "1"}
    for kind in ("cohort-read", "predictions-read", "reference-read"):
        note_read(worker, row, kind)
    worker.record.close()
    make_checkpoint(facility)
    log_some(database, 1, organisation="sme-b")
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Served(f"http://127.0.0.1:{port}", tokens, facility, database)
    server.should_exit = True
    thread.join()
    facility.close()


@pytest.fixture
def stranger(served: Served, tmp_path: Path) -> Path:
    """A folder that holds the facility's root certificate and nothing else of it."""
    shutil.copy(served.facility.settings.root_certificate, tmp_path / "root.pem")
    return tmp_path


def test_an_auditor_reads_all_an_sme_its_own_and_others_nothing(served: Served) -> None:
    seen = {
        name: served.get(name, "/events", limit=5000)
        for name in PEOPLE
    }  # fmt: skip
    kinds = {
        name: sorted({event["organisation"] for event in answer.json()["items"]})
        for name, answer in seen.items() if answer.status_code == 200
    }  # fmt: skip
    assert kinds == {
        "Ann": ["sme-a", "sme-b", "tef"],
        "Eva": ["sme-a"],
        "Bob": ["sme-b"],
        "Hal": [],
    }
    assert {name for name, answer in seen.items() if answer.status_code == 403} == {
        "Ada", "Sam", "Ad"
    }  # fmt: skip
    for path in ("/log", "/checkpoints", "/checkpoint-index", "/proofs/1", "/consistency"):
        assert httpx.get(f"{served.url}/api/v1/audit{path}").status_code in (401, 422)


def test_events_come_page_by_page_without_gap_or_repeat(served: Served) -> None:
    whole = served.get("Ann", "/events", limit=5000).json()["items"]
    first = served.get("Ann", "/events", limit=2).json()
    pages, cursor = first["items"], first["next"]
    log_some(served.database, 2)  # meanwhile: they come at the end, once
    while cursor is not None:
        page = served.get("Ann", "/events", limit=2, cursor=cursor).json()
        pages += page["items"]
        cursor = page["next"]
    assert pages[:-2] == whole
    assert [event["seq"] for event in pages] == list(range(1, len(pages) + 1))
    later = served.get("Ann", "/events", after=len(pages) - 1).json()
    assert later == {"items": pages[-1:], "next": None}


def test_an_sme_in_pages_has_its_own_events_alone(served: Served) -> None:
    whole = served.get("Bob", "/events", limit=5000).json()["items"]
    page = served.get("Bob", "/events", limit=1).json()
    pages = page["items"]
    while page["next"] is not None:
        page = served.get("Bob", "/events", limit=1, cursor=page["next"]).json()
        pages += page["items"]
    assert pages == whole
    assert {event["organisation"] for event in pages} == {"sme-b"}


@pytest.mark.parametrize("path", ["/events", "/checkpoints", "/checkpoint-index"])
def test_a_page_of_the_log_goes_on_by_its_own_cursor_only(served: Served, path: str) -> None:
    log_some(served.database, 1)
    make_checkpoint(served.facility)
    whole = served.get("Ann", path).json()
    assert whole["next"] is None
    answer = served.get("Ann", path, limit=1)
    page = answer.json()
    assert page["items"] == whole["items"][:1]
    assert answer.links["next"]["url"].endswith(f"cursor={page['next']}")
    following = served.get("Ann", path, limit=1, cursor=page["next"]).json()
    assert following["items"] == whole["items"][1:2]
    other = "/checkpoints" if path == "/events" else "/events"
    for who, where, cursor in (
        ("Eva", path, page["next"]),
        ("Ann", other, page["next"]),
        ("Ann", path, page["next"][:-1] + ("A" if page["next"][-1] != "A" else "B")),
        ("Ann", path, "A" * 60),
    ):
        refused = served.get(who, where, limit=1, cursor=cursor)
        assert refused.status_code == 422, refused.text
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["code"] == "cursor_unknown"


def test_the_command_line_walks_the_log_to_its_end(served: Served, stranger: Path) -> None:
    whole = served.get("Ann", "/events", limit=5000).json()["items"]
    assert len(whole) > 8
    run = partial(served.run, "Ann", cwd=stranger)
    assert json.loads(run("list", "--json").stdout) == {"events": whole}
    some = json.loads(run("list", "--after", "2", "--limit", "3", "--json").stdout)
    assert some == {"events": whole[2:5]}
    assert "more: touchstone audit list --after 3" in run("list", "--limit", "3").stdout
    assert "more:" not in run("list").stdout


@pytest.mark.parametrize(
    "path",
    ["/events?after=-1", "/events?limit=0", "/events?limit=99999", "/events?after=x",
     "/events?after=99999999999999999999", "/checkpoints?limit=5001",
     "/events?cursor=x",
     "/events?limit=5001", "/checkpoint-index?limit=0", "/proofs/x", "/proofs/%00",
     "/proofs/9999999999999999999999", "/proofs/0", "/proofs/-1", "/consistency?first=3&second=2",
     "/consistency?first=1&second=7777", "/proofs/" + "a" * 3000],
)  # fmt: skip
def test_questions_that_make_no_sense_are_answered_as_such(served: Served, path: str) -> None:
    answer = served.get("Ann", path)
    assert answer.status_code in (404, 422), answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_an_sme_proves_its_own_events_and_not_those_of_others(
    served: Served, stranger: Path
) -> None:
    done = served.run("Eva", "prove", SUBMISSION, "--out", "p.json", cwd=stranger)
    assert done.returncode == 0, done.stderr
    checked = served.run("Eva", "check", "p.json", "--root", "root.pem", "--json", cwd=stranger)
    value = json.loads(checked.stdout)
    assert [event["kind"] for event in value["events"]] == [
        "cohort-read", "predictions-read", "reference-read"
    ]  # fmt: skip
    assert served.get("Bob", f"/proofs/{SUBMISSION}").status_code == 404
    theirs = served.get("Bob", "/events").json()["items"][0]["seq"]
    assert served.get("Bob", f"/proofs/{theirs}").status_code == 200
    assert served.get("Eva", f"/proofs/{theirs}").status_code == 404


def test_one_events_proof_is_of_that_event_alone(served: Served) -> None:
    from tests.registry.role import Role

    Role(served.database.worker).execute(  # a subject that a careless query would take for "none"
        "SELECT touchstone.append_event('w', 'sme-a', 'test-event', '', '{}')"
    )
    entries = served.get("Ann", "/proofs/2").json()["entries"]
    assert [entry["event"]["seq"] for entry in entries] == [2]


def test_a_stranger_checks_a_proof_without_our_server_or_its_parts(
    served: Served, stranger: Path
) -> None:
    (stranger / "p.json").write_bytes(served.get("Ann", "/proofs/1").content)
    program = (
        "import sys, datetime, pathlib\n"
        "from registry.trust.log_proof import check_proof\n"
        "from registry.trust.keys import load_certificate\n"
        "p = check_proof(pathlib.Path('p.json').read_bytes(),"
        " load_certificate(pathlib.Path('root.pem')), datetime.datetime.now(datetime.UTC))\n"
        "ours = {'psycopg', 'fastapi', 'httpx', 'mlflow', 'registry.database'}\n"
        "assert not ours & set(sys.modules)\n"
        "print(p.events[0].seq)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=stranger, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    assert done.stdout == "1\n", done.stderr
    forged = json.loads((stranger / "p.json").read_bytes())
    forged["entries"][0]["event"]["actor"] = "Eve"
    (stranger / "p.json").write_bytes(canonical(forged))
    refused = served.run("Ann", "check", "p.json", "--root", "root.pem", cwd=stranger)
    assert refused.returncode == 1
    assert "not in the log" in refused.stderr


def test_an_event_that_no_checkpoint_covers_yet_gets_one_when_it_is_proved(
    served: Served, stranger: Path
) -> None:
    log_some(served.database, 1)
    last = served.get("Ann", "/events", limit=5000).json()["items"][-1]["seq"]
    proof = served.get("Eva", f"/proofs/{last}").json()
    assert parse(proof["checkpoint"].encode())[0].size >= last
    assert served.facility.store.exists(path_of(last))


def test_a_witness_who_co_signed_is_checked_with_the_proof(served: Served, stranger: Path) -> None:
    from datetime import UTC, datetime

    witness, name = Ed25519PrivateKey.generate(), "witness.example/w1"
    proof = served.get("Ann", "/proofs/2").json()
    note = proof["checkpoint"].encode()
    plain, vkey = stranger / "plain.json", verifier_key(name, witness.public_key(), 4)
    plain.write_bytes(canonical(proof))
    line = cosignature_line(note, name, witness, datetime(2026, 11, 24, 9, tzinfo=UTC))
    proof["checkpoint"] = with_line(note, line).decode()
    (stranger / "seen.json").write_bytes(canonical(proof))
    arguments = ("--root", "root.pem", "--witness", vkey)
    assert "has not co-signed" in served.run("Ann", "check", "plain.json", *arguments,
                                             cwd=stranger).stderr  # fmt: skip
    seen = served.run("Ann", "check", "seen.json", *arguments, "--json", cwd=stranger)
    assert json.loads(seen.stdout)["witnessed"] == {name: "2026-11-24T09:00:00+00:00"}


def test_two_checkpoints_are_shown_to_be_one_log(served: Served) -> None:
    make_checkpoint(served.facility)
    found = served.get("Eva", "/checkpoints").json()["items"]
    old, new = (parse(entry["note"].encode())[0] for entry in (found[0], found[-1]))
    assert old.size < new.size
    answer = served.get("Eva", "/consistency", first=old.size, second=new.size).json()
    path = [base64.b64decode(step) for step in answer["path"]]
    assert merkle.extends(old.size, old.root, new.size, new.root, path)


def test_reads_of_locked_cohorts_are_logged_and_only_by_those_who_may(
    served: Served, database: Databases
) -> None:
    from tests.registry.role import Role

    Role(database.owner).execute(
        "INSERT INTO touchstone.cohort (id, version, root, manifest_digest, manifest_path, title,"
        " positives, negatives, patients, contract_digest, locked_by) VALUES ('c','1',%s,%s,'x',"
        "'t',10,10,10,%s,'Sam')", ("sha256:" + "1" * 64,) * 3,
    )  # fmt: skip
    body = {"cohort": "c", "version": "1"}
    answers = {}
    for name, token in served.tokens.items():
        headers = {"Authorization": f"Bearer {token}"}
        url = f"{served.url}/api/v1/audit/reads"
        answers[name] = httpx.post(url, json=body, headers=headers).status_code
    assert {name for name, status in answers.items() if status == 201} == {"Ann", "Ada", "Sam"}
    assert set(answers.values()) == {201, 403}
    events = served.get("Ann", "/events", limit=5000).json()["items"]
    assert [(e["actor"], e["kind"], e["subject"]) for e in events[-3:]] == [
        (name, "cohort-read", "c/1") for name in answers if answers[name] == 201
    ]  # fmt: skip


def test_the_auditor_computes_the_log_again_and_is_told_the_first_bad_row(
    served: Served, stranger: Path, cluster: EmbeddedPostgres, database: Databases
) -> None:
    """Last in this file: it breaks the log."""
    good = served.run("Ann", "verify", "--root", "root.pem", "--json", cwd=stranger)
    assert good.returncode == 0, good.stderr
    value = json.loads(good.stdout)
    assert value["ok"]
    assert value["events"] > 8
    note = served.get("Ann", "/checkpoints").json()["items"][-1]["note"]
    (stranger / "kept.txt").write_text(note)
    arguments = ("verify", "--root", "root.pem", "--against", "kept.txt")
    assert "each extending the one before" in served.run("Ann", *arguments, cwd=stranger).stdout
    unknown = served.run("Ann", "verify", cwd=stranger)
    assert unknown.returncode == 1
    assert "--root" in unknown.stderr
    own = served.run("Eva", "verify", "--root", "root.pem", cwd=stranger)
    assert own.returncode == 1
    assert "auditor" in own.stderr

    gone = served.facility.settings.objects / path_of(parse(note.encode())[0].size)
    kept_bytes = gone.read_bytes()
    gone.unlink()
    missing = served.run("Ann", "verify", "--root", "root.pem", cwd=stranger)
    assert missing.returncode == 1
    assert "gone from the object store" in missing.stdout
    gone.write_bytes(kept_bytes)

    name = database.app.partition("@/")[2].partition("?")[0]
    superuser = cluster.superuser_dsn.replace("@/touchstone?", f"@/{name}?")
    behind_the_triggers(superuser, "UPDATE touchstone.event SET actor = 'Eve' WHERE seq = 4")
    bad = served.run("Ann", *arguments, "--json", cwd=stranger)
    assert bad.returncode == 1
    assert bad.stderr == "error: the log does not hold; first bad: event 4\n"
    assert json.loads(bad.stdout)["first_bad"] == 4
    assert served.get("Ann", "/proofs/4").status_code == 409
