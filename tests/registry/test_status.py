"""A facility publishes its status: people list, a machine stops, and a hospital believes neither
without the other's due."""

import asyncio
import datetime as dt
import os
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tuf.api.metadata import Metadata

from registry.database.record import Record
from registry.pipeline.queue import work
from registry.status import publish as publishing
from registry.status.lists import stopped
from registry.status.machine_key import make_status_key, status_key
from registry.status.publish import keep_up, publish, published
from registry.status.signing import Roots, Signature, draft, take_roots, take_signature
from registry.submissions.review import decide
from registry.submissions.revoke import resume, revoke, suspend
from registry.trust.canonical import sha256_bytes
from registry.trust.dsse import add_signature, unsigned
from registry.trust.errors import NotFound, TouchstoneError
from registry.trust.keys import Identity, issue, pem_of, save_identity
from registry.trust.resumption import RESUMPTION_TYPE, Resumption, new_resumption
from registry.trust.status import (
    Listed,
    endorsed,
    key_name,
    listed_in,
    new_root,
    new_targets,
    signed_by,
    until,
)
from serving.bundle.status import Status, checked
from serving.bundle.status_copy import collect
from tests.registry.house import House

DAY = dt.timedelta(days=1)


class Published:
    """The house with a status: Sam and Uma hold its root, Ada and Ben list what is in force."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.uma = issue(house.root, "Uma", organisation="tef")
        self.roots: list[Any] = []

    def root(self, assessors: tuple[str, ...], **more: Any) -> Any:
        """The next root, signed by its two holders."""
        holders = (self.house.keys["Sam"], self.uma)
        made = new_root(
            len(self.roots) + 1, dt.datetime.now(dt.UTC),
            holders=[holder.certificate for holder in holders],
            assessors=[self.house.keys[name].certificate for name in assessors],
            machine=more.get("machine", status_key(self.house.facility.settings).public_key()),
        )  # fmt: skip
        for holder in holders:
            signed_by(made, holder)
        self.roots.append(made)
        return made

    def hand_in(self) -> dict[str, Any]:
        """Every root so far, by Sam."""
        endorsement = endorsed(self.roots[0], self.house.root)
        texts = [one.to_bytes().decode() for one in self.roots]
        new = Roots(roots=texts, endorsement=endorsement)
        return take_roots(self.house.facility, self.house.callers["Sam"], new)

    def sign(self, person: str, submission: str | None = None, **more: Any) -> dict[str, Any]:
        """What `touchstone status sign` does, without reading."""
        caller = self.house.callers[person]
        text = draft(self.house.facility, caller, submission)["metadata"]
        return self.send(person, more.get("text", text), more.get("key"))

    def send(self, person: str, text: str, key: Identity | None = None) -> dict[str, Any]:
        """A signature over a list."""
        key = key or self.house.keys[person]
        signature = key.sign(Metadata.from_bytes(text.encode()).signed_bytes).hex()
        public: Any = key.certificate.public_key()
        new = Signature(metadata=text, key=key_name(public), signature=signature)
        return take_signature(self.house.facility, self.house.callers[person], new)

    def read(self, at: dt.datetime | None = None) -> Status:
        """The status as a hospital sees it."""

        def one(name: str) -> bytes | None:
            try:
                return published(self.house.facility, name)
            except NotFound:
                return None

        moment = at or dt.datetime.now(dt.UTC)
        return checked(collect(one), self.house.root.certificate, moment)

    def certify(self, *people: str) -> str:
        """A certificate, each deciding and signing along."""
        submission = self.house.in_review()
        for person in people:
            self.vouch(person, submission)
        return submission

    def vouch(self, person: str, submission: str) -> None:
        """A decision, and the list's signature with it."""
        caller = self.house.callers[person]
        signed = self.house.signed(person, submission)
        decide(self.house.facility, caller, submission, signed)
        self.sign(person, submission)

    def statement(self, submission: str) -> str:
        """The digest of its signed statement."""
        return str(self.house.row(submission)["statement_digest"])

    def state(self, submission: str) -> str:
        """What a hospital is told of it."""
        return self.read().standing(self.statement(submission)).state

    def resume(self, person: str, submission: str) -> None:
        """A resumption, and the list's signature with it."""
        caller, key = self.house.callers[person], self.house.keys[person]
        word = Resumption(
            submission=submission, suspended_at=self.house.row(submission)["changed_at"],
            reason="looked into", person=person, organisation="tef",
            signed_at=dt.datetime.now(dt.UTC),
        )  # fmt: skip
        envelope = add_signature(unsigned(RESUMPTION_TYPE, new_resumption(word)), key)
        resume(self.house.facility, caller, submission, envelope)
        self.sign(person, submission)


@pytest.fixture(scope="module")
def status(house: House) -> Published:
    """A first root and an empty list, published."""
    house.keys["Cleo"] = issue(house.root, "Cleo", organisation="tef")
    house.enrol("Cleo", "Ada", "Ben")
    house.welcome("Cleo", "assessor")
    made = Published(house)
    with pytest.raises(NotFound) as caught:
        draft(house.facility, house.callers["Ada"])
    assert caught.value.code == publishing.NOT_SET_UP
    made.root(("Ada", "Ben"))
    assert made.hand_in() == {"version": 1, "added": 1, "stands": False}
    assert not made.sign("Ada")["published"]
    assert made.sign("Ben")["published"]
    return made


def code_of(act: Any) -> str:
    with pytest.raises(TouchstoneError) as caught:
        act()
    return caught.value.code


def test_a_certificate_is_listed_with_the_decisions_and_one_assessor_is_not_enough(
    status: Published,
) -> None:
    submission = status.certify("Ada")
    assert code_of(lambda: status.state(submission)) == "not_listed"
    assert draft(status.house.facility, status.house.callers["Ben"])["due"] is False
    status.vouch("Ben", submission)
    assert status.state(submission) == "in_force"
    assert status.read().signers == (("Ada", "tef"), ("Ben", "tef"))
    assert draft(status.house.facility, status.house.callers["Ada"])["due"] is False


def test_a_stop_is_published_at_once_and_lifted_by_two_with_their_words(status: Published) -> None:
    submission = status.certify("Ada", "Ben")
    facility, people = status.house.facility, status.house.callers
    suspend(facility, people["Sam"], submission, "readings drift")
    standing = status.read().standing(status.statement(submission))
    assert (standing.state, standing.reason) == ("suspended", "readings drift")
    status.resume("Ada", submission)
    assert status.state(submission) == "suspended"
    status.resume("Ben", submission)
    assert status.state(submission) == "in_force"
    suspend(facility, people["Ada"], submission, "again")
    assert status.state(submission) == "suspended"
    for person in ("Ada", "Ben"):
        revoke(facility, people[person], submission, "it harms")
    assert status.state(submission) == "revoked"
    listed = listed_in(Metadata.from_bytes(
        draft(facility, people["Ada"])["metadata"].encode()).signed)  # fmt: skip
    assert status.statement(submission) not in listed


class Typed:
    """`touchstone …` on an assessor's machine, with their own token and key."""

    def __init__(
        self, house: House, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
    ) -> None:
        self.house, self.folder, self.monkeypatch, self.capsys = house, folder, monkeypatch, capsys
        for name in [name for name in os.environ if name.startswith(("TOUCHSTONE_", "MLFLOW_"))]:
            monkeypatch.delenv(name)
        settings = house.facility.settings
        own = {"TOUCHSTONE_HOME": settings.home, "TOUCHSTONE_KEYS": settings.keys}
        for name, value in {**house.database.environment("registry"), **own}.items():
            monkeypatch.setenv(name, str(value))
        self.root = folder / "root.pem"
        self.root.write_bytes(pem_of(house.root.certificate))

    def __call__(self, person: str, *arguments: object, pinned: bool = False) -> str:
        from registry.cli.main import app

        secret = self.house.answer(self.house.challenged(person)).secret
        self.monkeypatch.setenv("TOUCHSTONE_TOKEN", secret)
        self.monkeypatch.delenv("TOUCHSTONE_ROOT", raising=False)
        if pinned:
            self.monkeypatch.setenv("TOUCHSTONE_ROOT", str(self.root))
        key = self.folder / f"{person}.key"
        if not key.exists():
            save_identity(self.house.keys[person], self.folder, person)
        self.capsys.readouterr()
        app([*map(str, arguments), "--key", str(key)], standalone_mode=False)
        return str(self.capsys.readouterr().out)


@pytest.fixture
def typed(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Typed:
    return Typed(house, tmp_path, monkeypatch, capsys)


def test_a_list_that_was_not_signed_along_is_read_and_signed_later(
    status: Published, typed: Typed
) -> None:
    decides = ("--certify", "--reason", "read it")
    first, second = status.house.in_review(), status.house.in_review()
    for person in ("Ada", "Ben"):
        said = typed(person, "decide", first, *decides)
        assert "not signed along: `touchstone status sign` (with --root" in said
    assert status.house.row(first)["state"] == "certified", "what was decided is decided"
    assert code_of(lambda: status.state(first)) == "not_listed", "and no hospital counts it yet"
    said = typed("Ada", "decide", second, *decides, pinned=True)
    assert "not signed along: `touchstone status sign` (more has changed than this" in said
    said = typed("Ada", "status", "sign", pinned=True)
    assert status.statement(first) in said
    assert status.statement(second) not in said
    assert "another assessor signs next" in said
    assert "is published" in typed("Ben", "status", "sign", pinned=True)
    assert status.state(first) == "in_force"
    assert "not signed along" not in typed("Ben", "decide", second, *decides, pinned=True)
    assert code_of(lambda: status.state(second)) == "not_listed", "Ada has not signed for it"
    assert "is published" in typed("Ada", "status", "sign", pinned=True)
    assert status.state(second) == "in_force"


def test_a_resumption_without_the_list_s_signature_leaves_hospitals_stopped(
    status: Published, typed: Typed
) -> None:
    submission, house = status.certify("Ada", "Ben"), status.house
    suspend(house.facility, house.callers["Sam"], submission, "readings drift")
    assert "not signed along" in typed("Ada", "resume", submission, "--reason", "looked into")
    said = typed("Ben", "resume", submission, "--reason", "looked into", pinned=True)
    assert "not signed along" not in said
    assert house.row(submission)["state"] == "certified"
    assert status.state(submission) == "suspended", "one assessor's signature lifts nothing"
    assert "lifting the stop of" in typed("Ada", "status", "sign", pinned=True)
    assert status.state(submission) == "in_force"


def test_a_live_worker_renews_the_status_by_itself(
    status: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A day made as short as half a second."""
    monkeypatch.setattr(publishing, "DAILY", dt.timedelta(seconds=0.5))
    monkeypatch.setattr(publishing, "LOOK_SECONDS", 0.1)
    before = status.read()

    async def until_renewed_twice() -> Status:
        worker = asyncio.create_task(work(status.house.facility))
        try:
            end = time.monotonic() + 60
            while time.monotonic() < end and not worker.done():
                later = await asyncio.to_thread(status.read)
                if later.seen["timestamp"].version >= before.seen["timestamp"].version + 2:
                    return later
                await asyncio.sleep(0.1)
            raise AssertionError("it was not renewed")
        finally:
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)

    later = asyncio.run(until_renewed_twice())
    assert later.seen["snapshot"].version >= before.seen["snapshot"].version + 2
    assert later.signed_at > before.signed_at
    assert later.use_until() > before.use_until()
    assert later.seen["targets"] == before.seen["targets"], "only people sign that"
    assert later.seen["downgrade"] == before.seen["downgrade"]


def test_what_assessors_sign_is_the_records_own_list_to_the_byte(status: Published) -> None:
    submission = status.certify("Ada", "Ben")
    house = status.house
    suspend(house.facility, house.callers["Sam"], submission, "readings drift")
    given = Metadata.from_bytes(draft(house.facility, house.callers["Ada"])["metadata"].encode())
    machine = status_key(house.facility.settings).public_key()
    now = dt.datetime.now(dt.UTC)
    listed = listed_in(given.signed)
    back = {**listed, status.statement(submission): Listed(11)}
    for expires, entries, version in (
        (until("targets", now), back, given.signed.version),
        (until("targets", now), {**listed, sha256_bytes(b"x"): Listed(1)}, given.signed.version),
        (until("targets", now), {}, given.signed.version),
        (until("targets", now), listed, given.signed.version + 1),
        (until("targets", now) + DAY, listed, given.signed.version),
        (now.replace(microsecond=0) + DAY, listed, given.signed.version),
    ):
        text = new_targets(version, expires, entries, machine).to_bytes().decode()
        assert code_of(lambda text=text: status.send("Ada", text)) == "status_list_changed"
    text = given.to_bytes().decode()
    assert code_of(lambda: status.send("Sam", text)) == "refused"
    assert code_of(lambda: status.send("Cleo", text)) == "status_key_unknown"
    assert code_of(lambda: status.send("Ada", text, house.keys["Ben"])) == "refused"


def test_a_new_root_waits_for_the_assessors_that_it_names(status: Published) -> None:
    status.root(("Cleo", "Ben"))
    assert status.hand_in() == {"version": 2, "added": 1, "stands": False}
    assert status.read().seen["root"].version == 1
    assert code_of(lambda: status.sign("Ada")) == "status_key_unknown"
    status.sign("Cleo")
    assert status.sign("Ben")["published"]
    assert status.read().seen["root"].version == 2
    assert status.read().signers == (("Ben", "tef"), ("Cleo", "tef"))
    status.roots[1] = status.roots[0]
    assert code_of(status.hand_in) in ("conflict", "status_malformed")


def test_a_lost_machine_key_is_replaced_and_what_was_stopped_meanwhile_is_told(
    status: Published,
) -> None:
    house = status.house
    status.roots[1] = Metadata.from_bytes(published(house.facility, "2.root.json"))
    submission = house.in_review()
    for person in ("Ben", "Cleo"):
        status.vouch(person, submission)
    assert status.state(submission) == "in_force"
    key = house.facility.settings.status_key
    for path in (key, key.with_suffix(".pub")):
        path.unlink()
    make_status_key(house.facility.settings)
    suspend(house.facility, house.callers["Sam"], submission, "readings drift")
    assert status.state(submission) == "in_force", "nobody can say it without the key"
    status.root(("Cleo", "Ben"))
    assert status.hand_in() == {"version": 3, "added": 1, "stands": False}
    status.sign("Cleo")
    assert status.sign("Ben")["published"]
    assert status.read().seen["root"].version == 3
    assert status.state(submission) == "suspended"


def test_the_database_alone_keeps_order_and_names(status: Published) -> None:
    house = status.house
    gate: Record = house.facility.gate
    row = {"content": "{}", "root_version": None}
    with pytest.raises(TouchstoneError), gate.transaction() as now:
        now.do("status_add", role="targets", version=99, **row)
    with pytest.raises(TouchstoneError), gate.transaction(house.callers["Sam"]) as now:
        now.do("status_signature_add", version=9, digest="sha256:" + "1" * 64, metadata="{}",
               key_id=f"sha256:{key_name(house.keys['Ada'].certificate.public_key())}",  # type: ignore[arg-type]
               signature="00" * 70, person="Ada", organisation="tef")  # fmt: skip
    with pytest.raises(psycopg.errors.Error):
        house.owner.execute("UPDATE touchstone.status_file SET content = '{}'")


def test_the_machine_renews_by_itself_day_by_day(status: Published) -> None:
    # The last test here: it publishes in the future.
    facility, now = status.house.facility, dt.datetime.now(dt.UTC)
    before = status.read()
    assert not publish(facility, now)
    assert keep_up(facility, now + 2 * DAY)
    later = status.read(now + 2 * DAY)
    assert later.use_until() > before.use_until()
    assert later.seen["targets"] == before.seen["targets"]


def test_a_server_whose_clock_went_back_still_stops_what_it_has_to() -> None:
    """A stop is named by its moment: one before that of a stop which was lifted would be none."""
    payload = b"a statement"
    envelope, digest = unsigned("x", payload), sha256_bytes(payload)

    def row(state: str, at: dt.datetime) -> dict[str, Any]:
        return {"state": state, "changed_at": at, "reason": "drift", "envelope": envelope}

    hour = dt.timedelta(hours=1)
    now = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
    first = stopped([row("suspended", now)], {}, {})
    lifted = {digest: Listed(11, first[digest].since)}
    assert stopped([row("certified", now)], first, lifted) == first
    for state in ("suspended", "revoked"):
        again = stopped([row(state, now - hour)], first, lifted)
        assert (again[digest].state, again[digest].since > first[digest].since) == (state, True)
        assert stopped([row(state, now - hour)], again, lifted) == again, "it is published once"
    unlifted = stopped([row("revoked", now - hour)], first, {digest: Listed(11)})
    assert unlifted[digest].state == "revoked"
    assert stopped([row("suspended", now)], first, {digest: Listed(11)}) == first
