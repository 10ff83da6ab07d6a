"""Witnesses of the log: asked, taken in, shown; and what a certificate waits for."""

import asyncio
import datetime as dt
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Annotated, Any

import psycopg
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI, Header
from typer.testing import CliRunner

from registry.api import audit
from registry.api.problems import install
from registry.audit.asking import ask
from registry.audit.checkpoints import latest_note, make_checkpoint
from registry.audit.cosignatures import listing, take, with_cosignatures
from registry.audit.drafted import certified_log
from registry.audit.log_key import log_key
from registry.audit.reading import prove
from registry.audit.tiles import published
from registry.audit.tree import KnownTree
from registry.audit.witnesses import configured
from registry.cli.main import app
from registry.facility import Facility
from registry.identity import accounts
from registry.identity.caller import Caller
from registry.settings import Databases
from registry.trust.checkpoint import (
    Checkpoint,
    parse,
    sign,
    verifier_key,
    witnessed_at,
)
from registry.trust.errors import Refused, TouchstoneError, Unavailable
from registry.trust.log_proof import check_proof
from registry.trust.merkle import Tree, leaf_hash
from tests.registry.logged import facility_over, log_some, person
from tests.registry.role import Role
from tests.registry.strict_witness import StrictWitness, serving

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
SOON = dt.timedelta(seconds=1)
Rude = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture(scope="module")
def bare(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Facility]:
    """A facility with a log, and no witness yet."""
    made = facility_over(database, tmp_path_factory.mktemp("facility"))
    log_some(database, 5)
    yield made
    made.close()


@pytest.fixture
def witness(bare: Facility, tmp_path: Path) -> Iterator[StrictWitness]:
    """A witness of a name of its own that watches the facility's log."""
    with StrictWitness(f"witness.example/{tmp_path.name}", tmp_path) as made:
        watch(made, bare)
        yield made


def watch(witness: StrictWitness, facility: Facility) -> None:
    key = log_key(facility)
    witness.trust(key.origin, key.key.public_key())


def choosing(facility: Facility, folder: Path, *lines: str) -> Facility:
    """The facility with these lines in its file of witnesses."""
    path = folder / "witnesses.txt"
    path.write_text("# who watches us\n\n" + "\n".join(lines) + "\n")
    return replace(facility, settings=replace(facility.settings, witnesses=path))


def line_of(witness: StrictWitness, url: str | None = None) -> str:
    return f"{witness.verifier_key} {witness.url if url is None else url}".strip()


def grown(facility: Facility) -> tuple[Checkpoint, bytes]:
    """(head, note) of the log with three events more."""
    log_some(facility.databases, 3)
    note = make_checkpoint(facility)
    return parse(note)[0], note


def asked(facility: Facility, deadline: dt.timedelta = SOON) -> dict[str, Any]:
    """What the list shows after a look, by name."""
    asyncio.run(ask(facility, KnownTree(facility.gate), deadline))
    return shown(facility)


def shown(facility: Facility) -> dict[str, Any]:
    ann, _ = person(facility.databases, "Ann")
    return {row["name"]: row for row in listing(facility, ann)["witnesses"]}


# -- the setting ----------------------------------------------------------------------------------


def vkey(name: str, kind: int = 4) -> str:
    return verifier_key(name, Ed25519PrivateKey.generate().public_key(), kind)


def test_the_facility_is_not_its_own_witness(bare: Facility, tmp_path: Path) -> None:
    own = verifier_key("other.example", log_key(bare).key.public_key(), 4)
    with pytest.raises(Unavailable, match="its own witness"):
        configured(choosing(bare, tmp_path, own))
    with pytest.raises(Unavailable, match="line 3"):
        configured(choosing(bare, tmp_path, "nobody"))


# -- asking over HTTP ------------------------------------------------------------------------------


def test_each_new_checkpoint_is_co_signed_once_and_carries_the_line(
    bare: Facility, witness: StrictWitness, tmp_path: Path
) -> None:
    facility = choosing(bare, tmp_path, line_of(witness))
    first, _ = grown(facility)
    row = asked(facility)[witness.name]
    assert (row["size"], row["behind"], row["trouble"]) == (first.size, 0, None)
    asked(facility)
    assert len(witness.asked) == 1, "what is co-signed is not asked for again"
    head, note = grown(facility)
    assert shown(facility)[witness.name]["behind"] == 3
    asked(facility)
    assert witness.asked[-1].startswith(b"old %d\n" % first.size)
    assert witness.saw(head.origin) == (head.size, head.root)
    seen = with_cosignatures(facility, note)
    assert len(parse(seen)[1]) == 2
    at = witnessed_at(seen, witness.name, witness.key.public_key())
    assert abs(at - dt.datetime.now(dt.UTC)) < SOON * 60
    assert latest_note(facility) == note, "the store keeps what the log signed"
    known = KnownTree(facility.gate)
    assert published(facility, known, "checkpoint") == seen
    ann, _ = person(facility.databases, "Ann")
    given = check_proof(prove(facility, known, ann, "2"), facility.root, dt.datetime.now(dt.UTC))
    assert given.note == seen


def test_a_witness_that_knows_another_size_is_asked_from_there(
    bare: Facility, witness: StrictWitness, tmp_path: Path
) -> None:
    facility = choosing(bare, tmp_path, line_of(witness))
    head, note = grown(facility)
    assert witness.add_checkpoint(b"old 0\n\n" + note)[0] == 200  # and the answer was lost
    assert asked(facility)[witness.name]["size"] == head.size
    later, _ = grown(facility)
    tree = KnownTree(facility.gate).at(later.size, later.root)
    assert tree.size == later.size
    assert asked(facility)[witness.name]["size"] == later.size
    assert [body.split(b"\n")[0] for body in witness.asked] == [
        b"old 0", b"old 0", b"old %d" % head.size, b"old %d" % head.size
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("size", "says"),
    [(2, "does not continue .422."), (0, "another log of [0-9]+ events .409."),
     (1000, "co-signed 1000 events of this log and the newest")],
)  # fmt: skip
def test_a_log_that_shows_two_faces_is_refused_and_the_list_says_so(
    bare: Facility, witness: StrictWitness, tmp_path: Path, size: int, says: str
) -> None:
    """The log's own key signed another tree for the witness, of `size` events (0: just as many)."""
    facility = choosing(bare, tmp_path, line_of(witness))
    head, note = grown(facility)
    key = log_key(facility)
    other = Tree(leaf_hash(b"%d" % number) for number in range(size or head.size))
    shown_before = sign(Checkpoint(key.origin, other.size, other.root()), key.key)
    assert witness.add_checkpoint(b"old 0\n\n" + shown_before)[0] == 200
    row = asked(facility)[witness.name]
    assert row["size"] is None
    assert re.search(says, row["trouble"]), row["trouble"]
    assert with_cosignatures(facility, note) == note
    assert witness.saw(key.origin) == (other.size, other.root())


def test_a_witness_that_does_not_know_the_log_or_its_key_says_what_to_do(
    bare: Facility, tmp_path: Path
) -> None:
    with StrictWitness("witness.example/strange", tmp_path) as stranger:
        facility = choosing(bare, tmp_path, line_of(stranger))
        grown(facility)
        assert "does not know this log (404)" in asked(facility)[stranger.name]["trouble"]
        stranger.trust(log_key(facility).origin, Ed25519PrivateKey.generate().public_key())
        assert "this log or its key (403)" in asked(facility)[stranger.name]["trouble"]


def drip(request: BaseHTTPRequestHandler) -> None:
    """A byte now and then, for ever."""
    request.send_response(200)
    request.send_header("Content-Length", "10000")
    request.end_headers()
    for _ in range(40):
        request.wfile.write(b"x")
        time.sleep(0.1)


def flood(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    for _ in range(100):
        request.wfile.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")


def status(
    code: int, body: bytes = b"", **headers: str
) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


def hang_up(request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"\x00\xff not HTTP\r\n\r\n")
    request.close_connection = True


RUDE: dict[str, tuple[Rude, str]] = {
    "slow": (drip, "no whole answer within 1 seconds"),
    "large": (flood, "longer than 32768 bytes"),
    "rubbish": (status(200, b"\x00\xff\xfe rubbish"), "not made of signature lines"),
    "empty": (status(200), "no line of"),
    "broken": (status(500, b"secret words"), "status 500"),
    "redirecting": (status(302, Location="http://127.0.0.1:1/"), "status 302"),
    "vague": (status(409, b"many\n"), "without the size"),
    "stubborn": (status(409, b"1\n", Content_Type="text/x.tlog.size"), "saw 1 events last"),
    "not HTTP": (hang_up, "can't be reached (RemoteProtocolError)"),
}


def test_whatever_others_do_the_log_goes_on_and_the_good_one_is_heard(
    bare: Facility, witness: StrictWitness, tmp_path: Path
) -> None:
    servers = {name: serving(answer) for name, (answer, _) in RUDE.items()}
    lines = [f"{vkey(name.replace(' ', '-'))} http://127.0.0.1:{server.server_address[1]}"
             for name, server in servers.items()]  # fmt: skip
    lines += [f"{vkey('away')} http://127.0.0.1:1", line_of(witness)]
    facility = choosing(bare, tmp_path, *lines)
    head, note = grown(facility)
    started = time.monotonic()
    rows = asked(facility)
    assert time.monotonic() - started < 5
    for name, (_, says) in RUDE.items():
        row = rows[name.replace(" ", "-")]
        assert row["size"] is None
        assert says in row["trouble"], name
        assert "words" not in row["trouble"]
    assert "can't be reached (ConnectError)" in rows["away"]["trouble"]
    assert (rows[witness.name]["size"], rows[witness.name]["trouble"]) == (head.size, None)
    assert len(parse(with_cosignatures(facility, note))[1]) == 2
    for server in servers.values():
        server.shutdown()
        server.server_close()


def test_two_workers_that_ask_at_once_keep_one_line(
    bare: Facility, witness: StrictWitness, tmp_path: Path
) -> None:
    facility = choosing(bare, tmp_path, line_of(witness))
    _, note = grown(facility)
    looks = [threading.Thread(target=asked, args=(facility,)) for _ in range(3)]
    for look in looks:
        look.start()
    for look in looks:
        look.join()
    assert len(parse(with_cosignatures(facility, note))[1]) == 2
    assert shown(facility)[witness.name]["trouble"] is None


# -- what is kept ----------------------------------------------------------------------------------


def test_a_kept_line_is_never_changed_and_a_wrong_one_is_not_handed_out(
    bare: Facility, witness: StrictWitness, tmp_path: Path
) -> None:
    facility = choosing(bare, tmp_path, line_of(witness))
    head, note = grown(facility)
    asked(facility)
    gate = Role(facility.databases.gate)
    for statement in ("UPDATE touchstone.cosignature SET line = ''",
                      "DELETE FROM touchstone.cosignature"):  # fmt: skip
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            gate.execute(statement)
        with pytest.raises(psycopg.errors.RestrictViolation):
            Role(facility.databases.owner).execute(statement)
    wrong = witness.line(b"another text\n").decode()
    gate.execute(
        "INSERT INTO touchstone.cosignature VALUES (%s, %s, %s, now())",
        (head.size, vkey("somebody"), wrong),
    )
    lines = parse(with_cosignatures(facility, note))[1]
    assert [line.name for line in lines] == [head.origin, witness.name]


# -- a draft waits ---------------------------------------------------------------------------------


def test_a_draft_carries_what_there_is_and_waits_for_what_is_needed(
    bare: Facility, witness: StrictWitness, tmp_path: Path
) -> None:
    offline = StrictWitness(f"{witness.name}/offline", tmp_path)
    both = (line_of(witness), line_of(offline, ""))
    log_some(bare.databases, 1)
    free = choosing(bare, tmp_path, *both)
    head, lines = parse(certified_log(free).checkpoint.encode())
    assert [line.name for line in lines] == [head.origin, witness.name]
    facility = choosing(bare, tmp_path, "needed 2", *both)
    with pytest.raises(Unavailable) as raised:
        certified_log(facility, head.size)
    assert raised.value.code == "not_witnessed"
    assert "1 of the 2 witnesses" in raised.value.message
    assert f"missing: {offline.name};" in raised.value.message
    # The log goes on while somebody carries the file; the state that was carried is the one.
    grown(facility)
    take(facility, configured(facility).all[1], note_of(facility, head), offline.line(head.text()))
    drafted, lines = parse(certified_log(facility, head.size).checkpoint.encode())
    assert drafted == head
    assert {line.name for line in lines} == {head.origin, witness.name, offline.name}
    with pytest.raises(Unavailable, match="missing"):
        certified_log(facility, head.size + 1)  # what came later is not in that state


def note_of(facility: Facility, head: Checkpoint) -> bytes:
    return facility.store.get(f"log/checkpoints/{head.size:020d}.txt")


# -- by files, from the command line ---------------------------------------------------------------


@contextmanager
def serving_api(facility: Facility) -> Iterator[str]:
    api = FastAPI()
    install(api)

    def caller_of(authorization: Annotated[str | None, Header()] = None) -> Caller:
        return accounts.authenticate(facility.record, accounts.bearer(authorization))

    api.include_router(audit.router(facility, caller_of))
    server = uvicorn.Server(uvicorn.Config(api, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def test_a_witness_without_an_address_is_asked_by_files(
    bare: Facility, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline = StrictWitness("hospital.example/log", tmp_path)
    watch(offline, bare)
    facility = choosing(bare, tmp_path, line_of(offline, ""))
    head, _ = grown(facility)
    monkeypatch.chdir(tmp_path)

    def run(who: str, *arguments: str) -> Any:
        monkeypatch.setenv("TOUCHSTONE_TOKEN", person(facility.databases, who)[1])
        done = CliRunner().invoke(app, ["audit", *arguments, "--json"])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    with serving_api(facility) as address:
        monkeypatch.setenv("TOUCHSTONE_SERVER", address)
        made = run("Sam", "witness-request", offline.name, "--out", "request.txt")
        assert made["size"] == head.size
        code, _, answer = offline.add_checkpoint(Path("request.txt").read_bytes())
        assert code == 200
        Path("answer.txt").write_bytes(answer)
        grown(facility)
        size = ("--size", str(head.size))
        for _ in range(2):  # twice is once
            taken = run("Sam", "witness-answer", offline.name, "answer.txt", *size)
            assert (taken["witness"], taken["size"]) == (offline.name, head.size)
        listed = run("Ann", "witnesses")
        [row] = listed["witnesses"]
        assert (row["size"], row["url"]) == (head.size, None)
        assert row["behind"] == listed["size"] - head.size > 0
        # The next request goes on from there, or from where the witness says that it is.
        run("Sam", "witness-request", offline.name, "--out", "request.txt")
        assert Path("request.txt").read_bytes().startswith(b"old %d\n" % head.size)
        run("Sam", "witness-request", offline.name, "--out", "request.txt", "--old", "2")
        assert offline.add_checkpoint(Path("request.txt").read_bytes())[0] == 409
        for arguments, says in (
            ((offline.name, "answer.txt", "--size", str(listed["size"])), "does not fit"),
            ((offline.name, "answer.txt", "--size", str(head.size + 1)), "no checkpoint of"),
            (("other.example", "answer.txt", *size), "names no witness"),
            ((offline.name, "request.txt", *size), "no line of"),
        ):
            with pytest.raises(TouchstoneError, match=says):
                run("Sam", "witness-answer", *arguments)
        for who in ("Ann", "Eva", "Hal"):
            with pytest.raises(Refused):
                run(who, "witness-answer", offline.name, "answer.txt", *size)
        with pytest.raises(Refused):
            run("Eva", "witnesses")
