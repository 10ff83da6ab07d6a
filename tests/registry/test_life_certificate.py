"""Stopping a certified model is easy and at once; starting it again is hard; ended is ended."""

import datetime as dt
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from registry.audit.drafted import certified_log
from registry.facility import Facility
from registry.identity.caller import Caller
from registry.pipeline.overdue import look_at_overdue
from registry.storage.local import LocalStore
from registry.submissions import certified
from registry.submissions.notices import listing
from registry.submissions.revoke import resume, revoke, suspend
from registry.submissions.submit import view
from registry.trust.dsse import add_signature, unsigned
from registry.trust.errors import Conflict, NotFound, Refused, Tampered, TouchstoneError
from registry.trust.keys import Identity, issue, key_id, new_root, pem_of
from registry.trust.log_key import save_log_key
from registry.trust.resumption import RESUMPTION_TYPE, Resumption, new_resumption
from tests.registry.facility_example import enrol, facilities, settings_of
from tests.registry.mlflow_server import D1, D2, Gate, submit
from tests.registry.role import enrol_by_hand
from tests.serving import certified as made


@dataclass
class Pilot:
    """A facility whose models are in clinical pilot, with the keys of its assessors."""

    gate: Gate
    api: Facility
    worker: Facility
    people: dict[str, Caller]
    keys: dict[str, Identity]

    def certified(self, name: str, *, days: str = "1 day") -> str:
        """A model certified for clinical pilot, by the roles that do it; its submission."""
        version = self.gate.version(name)
        submission = submit(self.gate, name, version)
        for state in ("intake", "queued", "running", "assessed", "in_review"):
            more = f", verdict='pass', report_digest='{D2}'" if state == "assessed" else ""
            self.sql(f"UPDATE touchstone.submission SET state='{state}'{more} WHERE id=%s",
                     submission, role="worker")  # fmt: skip
        for person, key in (("Ada", D1), ("Ben", D2)):
            self.sql(
                "INSERT INTO touchstone.decision (submission, key_id, person, outcome, reason,"
                " report_digest, envelope, statement_signature)"
                f" VALUES (%s, '{key}', '{person}', 'certify', 'because', '{D2}', '{{}}', '{{}}')",
                submission,
            )  # fmt: skip
        envelope = made.quoting(certified_log(self.api), submission)
        with self.api.gate.transaction() as now:
            now.do("certificate_add", submission=submission, organisation="sme-a", model_name=name,
                   model_version=version, envelope=envelope, signers="", enrolments="",
                   not_after=in_(days))  # fmt: skip
            now.do("certified_move", id=submission, state="certified")
            now.do("pilot_set", organisation="sme-a", model_name=name, version=version)
        return submission

    def sql(self, statement: str, *values: Any, role: str = "owner") -> list[Any]:
        return self.gate.sql(statement, *values, role=role)

    def state(self, submission: str) -> str:
        return str(
            self.sql("SELECT state FROM touchstone.submission WHERE id = %s", submission)[0][0]
        )

    def alias(self, name: str) -> str | None:
        """Which version the stock client finds under clinical-pilot."""
        answer = self.gate.mlflow(
            "GET", "registered-models/alias", name=name, alias="clinical-pilot"
        )
        return answer.json()["model_version"]["version"] if answer.status_code == 200 else None

    def pulled(self, name: str) -> bool:
        """Whether a hospital can pull it now."""
        try:
            certified.listing(self.api, self.people["Clara"], name)
        except NotFound:
            return False
        return True

    def word(self, who: str, submission: str, **changes: Any) -> dict[str, Any]:
        """A signed resumption."""
        caller = self.people[who]
        found = view(self.api, self.people["Sam"], submission)
        fields = {
            "submission": submission,
            "suspended_at": found["changed_at"],
            "reason": "the drift was a scanner's",
            "person": caller.person,
            "organisation": caller.organisation,
            "signed_at": dt.datetime.now(dt.UTC),
        } | changes
        payload = new_resumption(Resumption.model_validate(fields))
        return add_signature(unsigned(RESUMPTION_TYPE, payload), self.keys[who])


def in_(span: str) -> dt.datetime:
    number, unit = span.split()
    return dt.datetime.now(dt.UTC) + dt.timedelta(**{f"{unit.removesuffix('s')}s": float(number)})


@pytest.fixture(scope="module")
def pilot(gate: Gate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pilot]:
    home = tmp_path_factory.mktemp("pilot")
    root = new_root("tef", demo=True)
    people = enrol(gate.databases)
    keys = {}
    for person, role in (("Ada", "assessor"), ("Ben", "assessor"), ("Sam", "steward")):
        keys[person] = issue(root, person, organisation="tef")
        leaf = keys[person].certificate
        pem = pem_of(leaf).decode()
        enrol_by_hand(gate.databases, person, role, key=key_id(leaf), pem=pem)
    settings = settings_of(home, gate.databases)
    log = made.log_of(root)
    save_log_key(log.key, settings.log_key)
    settings.log_key.with_suffix(".pem").write_bytes(pem_of(log.certificate))
    with facilities(gate.databases, settings, LocalStore(home / "objects"), root) as both:
        yield Pilot(gate, *both, people, keys)


@pytest.mark.parametrize("who", ["Sam", "Ada"])
def test_one_assessor_or_steward_suspends_at_once(pilot: Pilot, who: str) -> None:
    name = f"life-stopped-by-{who.lower()}"
    submission = pilot.certified(name)
    assert pilot.pulled(name)
    assert pilot.alias(name) == "1"
    shown = suspend(pilot.api, pilot.people[who], submission, "readings drift")
    assert shown["state"] == "suspended"
    assert shown["deadline"] is not None
    assert pilot.alias(name) is None
    assert not pilot.pulled(name)
    assert pilot.sql(
        "SELECT in_force FROM touchstone.certificate WHERE submission = %s", submission
    ) == [(False,)]
    for reader in ("Eva", "Clara", "Aud"):
        told = [one for one in listing(pilot.api, pilot.people[reader])
                if (one["submission"], one["kind"]) == (submission, "suspended")]  # fmt: skip
        assert told, f"{reader} is concerned"
        assert "stop using it" in told[0]["message"]
    assert not [one for one in listing(pilot.api, pilot.people["Finn"])
                if one["submission"] == submission]  # fmt: skip


@pytest.mark.parametrize("who", ["Eva", "Finn", "Clara", "Aud", "Ann"])
def test_nobody_else_stops_or_starts_a_certified_model(pilot: Pilot, who: str) -> None:
    submission = pilot.certified(f"life-not-for-{who.lower()}")
    for act in (suspend, revoke):
        with pytest.raises((Refused, NotFound)):
            act(pilot.api, pilot.people[who], submission, "not mine to say")
    with pytest.raises((Refused, NotFound)):
        resume(pilot.api, pilot.people[who], submission, {})
    assert pilot.state(submission) == "certified"


def test_two_assessors_bring_it_back_and_one_does_not(pilot: Pilot) -> None:
    submission = pilot.certified("life-comes-back")
    suspend(pilot.api, pilot.people["Ada"], submission, "readings drift")
    with pytest.raises(Refused, match="resume"):
        resume(pilot.api, pilot.people["Sam"], submission, pilot.word("Sam", submission))
    first = pilot.word("Ada", submission)
    assert resume(pilot.api, pilot.people["Ada"], submission, first)["state"] == "suspended"
    with pytest.raises(Refused, match="another person is needed"):
        resume(pilot.api, pilot.people["Ada"], submission, first)
    with pytest.raises(Refused, match="enrolled for you"):
        resume(pilot.api, pilot.people["Ben"], submission, first)
    assert (pilot.alias("life-comes-back"), pilot.pulled("life-comes-back")) == (None, False)
    shown = resume(pilot.api, pilot.people["Ben"], submission, pilot.word("Ben", submission))
    assert shown["state"] == "certified"
    assert pilot.alias("life-comes-back") == "1"
    assert pilot.pulled("life-comes-back")


def test_a_word_for_one_suspension_is_worth_nothing_for_the_next(pilot: Pilot) -> None:
    submission = pilot.certified("life-twice")
    suspend(pilot.api, pilot.people["Sam"], submission, "first")
    old = {who: pilot.word(who, submission) for who in ("Ada", "Ben")}
    for who in ("Ada", "Ben"):
        resume(pilot.api, pilot.people[who], submission, old[who])
    suspend(pilot.api, pilot.people["Sam"], submission, "second")
    with pytest.raises(Refused, match="another suspension"):
        resume(pilot.api, pilot.people["Ada"], submission, old["Ada"])
    broken = pilot.word("Ada", submission) | {"payload": old["Ada"]["payload"]}
    with pytest.raises(Tampered):
        resume(pilot.api, pilot.people["Ada"], submission, broken)
    forged = pilot.word("Ada", submission, person="Ben")
    with pytest.raises(Refused, match="by another person"):
        resume(pilot.api, pilot.people["Ada"], submission, forged)
    assert pilot.state(submission) == "suspended"


def test_a_model_that_comes_back_leaves_the_alias_to_a_newer_one(pilot: Pilot) -> None:
    old = pilot.certified("life-newer")
    suspend(pilot.api, pilot.people["Sam"], old, "wait")
    pilot.certified("life-newer")
    for who in ("Ada", "Ben"):
        resume(pilot.api, pilot.people[who], old, pilot.word(who, old))
    assert pilot.state(old) == "certified"
    assert pilot.alias("life-newer") == "2"


def test_the_first_voice_for_a_revocation_suspends_and_the_second_ends(pilot: Pilot) -> None:
    submission = pilot.certified("life-ends")
    ada, ben = pilot.people["Ada"], pilot.people["Ben"]
    assert revoke(pilot.api, ada, submission, "harm was seen")["state"] == "suspended"
    assert pilot.alias("life-ends") is None
    with pytest.raises(Refused, match="another person is needed"):
        revoke(pilot.api, ada, submission, "harm was seen")
    with pytest.raises(Refused, match="revoke"):
        revoke(pilot.api, pilot.people["Sam"], submission, "harm was seen")
    assert revoke(pilot.api, ben, submission, "harm was seen")["state"] == "revoked"
    for act in (suspend, revoke):
        with pytest.raises(Conflict, match="revoked"):
            act(pilot.api, ada, submission, "once more")
    with pytest.raises(Conflict, match="revoked"):
        resume(pilot.api, ada, submission, pilot.word("Ada", submission))
    assert not pilot.pulled("life-ends")


def test_a_voice_for_a_revocation_is_void_once_the_model_was_resumed(pilot: Pilot) -> None:
    submission = pilot.certified("life-forgotten")
    revoke(pilot.api, pilot.people["Ada"], submission, "harm was feared")
    for who in ("Ada", "Ben"):
        resume(pilot.api, pilot.people[who], submission, pilot.word(who, submission))
    assert revoke(pilot.api, pilot.people["Ben"], submission, "again")["state"] == "suspended"


def test_a_certificate_ends_on_its_last_day_and_not_before(pilot: Pilot) -> None:
    lasting = pilot.certified("life-lasting", days="1 day")
    early = look_at_overdue(pilot.worker, in_("2 days"))
    assert lasting not in dict(early), "the database's clock decides, not the caller's"
    assert pilot.state(lasting) == "certified"
    asleep = pilot.certified("life-short-asleep", days="3 seconds")
    ends = time.monotonic() + 3.2
    suspend(pilot.api, pilot.people["Sam"], asleep, "wait")
    submission = pilot.certified("life-short", days="1 second")
    time.sleep(max(1.2, ends - time.monotonic()))
    assert not pilot.pulled("life-short"), "also before the watchdog has come by"
    done = dict(look_at_overdue(pilot.worker, in_("0 days")))
    assert (done[submission], done[asleep]) == ("Expire", "Expire")
    assert (pilot.state(submission), pilot.state(asleep)) == ("expired", "expired")
    assert pilot.alias("life-short") is None
    assert look_at_overdue(pilot.worker, in_("0 days")) == []


def test_no_pull_begins_after_a_suspension(pilot: Pilot) -> None:
    name = "life-raced"
    submission = pilot.certified(name)
    stopped_at: list[float] = []
    began: list[float] = []
    end = threading.Event()

    def pull() -> None:
        while not end.is_set():
            at = time.monotonic()
            if pilot.pulled(name):
                began.append(at)

    threads = [threading.Thread(target=pull) for _ in range(3)]
    for thread in threads:
        thread.start()
    patience = time.monotonic() + 60
    while not began and time.monotonic() < patience:
        time.sleep(0.01)
    suspend(pilot.api, pilot.people["Sam"], submission, "now")
    stopped_at.append(time.monotonic())
    time.sleep(0.3)
    end.set()
    for thread in threads:
        thread.join()
    assert began
    assert max(began) < stopped_at[0]


def test_of_two_suspensions_at_once_one_counts(pilot: Pilot) -> None:
    submission = pilot.certified("life-both-at-once")
    said: list[str] = []

    def one(who: str) -> None:
        try:
            suspend(pilot.api, pilot.people[who], submission, "now")
            said.append("done")
        except TouchstoneError as error:
            said.append(error.code)

    threads = [threading.Thread(target=one, args=(who,)) for who in ("Sam", "Ada", "Ben")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == ["conflict", "conflict", "done"]


def at_gate(pilot: Pilot, who: str | None, *statements: str) -> None:
    """Statements of one transaction of the gate's role, in the name of a person or nobody."""
    with psycopg.connect(pilot.gate.databases.gate) as connection:
        if who is not None:
            connection.execute("SELECT touchstone.enter(%s)", (pilot.people[who].proof,))
        for statement in statements:
            connection.execute(statement)  # type: ignore[call-overload]


def test_the_database_refuses_every_half_of_a_suspension(pilot: Pilot) -> None:
    submission = pilot.certified("life-halves")
    act = ("INSERT INTO touchstone.act (submission, kind, person, organisation, reason)"
           f" VALUES ('{submission}', 'suspend', '{{}}', 'tef', 'why not')")  # fmt: skip
    move = f"UPDATE touchstone.submission SET state = 'suspended' WHERE id = '{submission}'"
    out = f"UPDATE touchstone.certificate SET in_force = false WHERE submission = '{submission}'"
    alias = "DELETE FROM mlflow.registered_model_aliases WHERE name = 'life-halves'"
    broken = psycopg.errors.RestrictViolation
    with pytest.raises(broken, match="by a person"):
        at_gate(pilot, "Ada", alias, out, move)
    with pytest.raises(broken, match="in another's name"):
        at_gate(pilot, None, act.format("Ada"))
    with pytest.raises(broken, match="in another's name"):
        at_gate(pilot, "Ada", act.format("Ben"))
    with pytest.raises(broken, match="may not suspend"):
        at_gate(pilot, "Eva", act.replace("'tef'", "'sme-a'").format("Eva"))
    with pytest.raises(broken, match="out of force"):
        at_gate(pilot, "Ada", act.format("Ada"), alias, move)
    with pytest.raises(broken, match="clinical-pilot goes"):
        at_gate(pilot, "Ada", act.format("Ada"), out, move)
    with pytest.raises(broken, match="clinical-pilot goes"):
        at_gate(pilot, None, out)
    assert (pilot.state(submission), pilot.alias("life-halves")) == ("certified", "1")
    at_gate(pilot, "Ada", act.format("Ada"), alias, out, move)
    assert pilot.state(submission) == "suspended"
    back = move.replace("'suspended'", "'certified'")
    force = out.replace("false", "true")
    with pytest.raises(broken, match="by two assessors"):
        at_gate(pilot, "Ada", back, force)
    with pytest.raises(broken, match="unless it is resumed"):
        at_gate(pilot, "Ada", force)
    with pytest.raises(broken, match="by two assessors"):
        at_gate(pilot, "Ada", move.replace("'suspended'", "'revoked'"))
    with pytest.raises(broken, match="valid until"):
        at_gate(pilot, None, move.replace("'suspended'", "'expired'"))
    with pytest.raises(psycopg.errors.DatabaseError, match="no certificate in force"):
        at_gate(pilot, None, "INSERT INTO mlflow.registered_model_aliases (workspace, name, alias,"
                " version) VALUES ('sme-a', 'life-halves', 'clinical-pilot', 1)")  # fmt: skip


def test_what_a_person_did_is_never_changed(pilot: Pilot) -> None:
    submission = pilot.certified("life-kept")
    suspend(pilot.api, pilot.people["Sam"], submission, "why")
    for statement in ("UPDATE touchstone.act SET reason = 'other'", "DELETE FROM touchstone.act",
                      "DELETE FROM touchstone.notice", "TRUNCATE touchstone.act"):  # fmt: skip
        for role in ("app", "gate", "worker", "owner"):
            with pytest.raises((psycopg.errors.InsufficientPrivilege,
                                psycopg.errors.RestrictViolation)):  # fmt: skip
                pilot.sql(statement, role=role)
