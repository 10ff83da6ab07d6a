"""Pilots as hospitals report them, and what those concerned are told before a certificate ends."""

import base64
import datetime as dt
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from registry.pipeline.overdue import look_at_overdue
from registry.submissions import pilot_keys, pilots
from registry.submissions.notices import listing as notices
from registry.submissions.revoke import suspend
from registry.trust.canonical import digest_of as canonical_digest
from registry.trust.canonical import sha256_bytes
from registry.trust.dsse import add_signature, payload_of, unsigned
from registry.trust.errors import Conflict, Invalid, NotFound, Refused, Tampered, TouchstoneError
from registry.trust.keys import Identity, issue, key_id, new_root, pem_of
from registry.trust.model_files import model_digest
from registry.trust.pilot_report import PILOT_REPORT_TYPE
from tests.registry.api_stage import PROTOCOL
from tests.registry.mlflow_server import D1, D2
from tests.registry.pilot_made import ALARM, signed_report
from tests.registry.role import Role, token_of
from tests.registry.test_life_certificate import Pilot, in_
from tests.registry.test_life_certificate import pilot as pilot  # the fixture


@pytest.fixture(scope="module")
def key() -> Identity:
    """The hospital's own key; its certificate is nobody's word but its own."""
    return issue(new_root("clinic", demo=False), "pilot", organisation="clinic")


def digest_of(pilot: Pilot, name: str) -> str:
    [(envelope,)] = pilot.sql(
        "SELECT envelope FROM touchstone.certificate WHERE model_name = %s", name
    )
    return sha256_bytes(payload_of(envelope))


def send(pilot: Pilot, key: Identity, name: str, who: str = "Clara", **change: Any) -> Any:
    return pilots.receive(
        pilot.api, pilot.people[who], signed_report(key, digest_of(pilot, name), **change),
        pem_of(key.certificate).decode(),
    )  # fmt: skip


def test_a_report_of_a_pulled_model_is_kept_and_seen(pilot: Pilot, key: Identity) -> None:
    submission = pilot.certified("watched")
    with pytest.raises(NotFound, match="pulled no model"):
        send(pilot, key, "watched")
    assert pilot.pulled("watched")
    assert send(pilot, key, "watched")["submission"] == submission
    with pytest.raises(Conflict, match="on this month already"):
        send(pilot, key, "watched")
    send(pilot, key, "watched", last_month="2025-12")
    this_month = f"{dt.datetime.now(dt.UTC) + dt.timedelta(days=1):%Y-%m}"
    for month in (this_month, "2099-12"):
        with pytest.raises(Invalid, match="has not ended"):
            send(pilot, key, "watched", last_month=month)
    for who in ("Clara", "Sam", "Ada", "Aud"):
        seen = [of for of in pilots.listing(pilot.api, pilot.people[who])
                if of["submission"] == submission]  # fmt: skip
        assert [of["last_month"] for of in seen] == ["2025-11", "2025-12"]
        assert (seen[0]["hospital"], seen[0]["patients"], seen[0]["alarms"]) == ("clinic", 300, [])
        assert seen[0]["in_force"]
    for who in ("Eva", "Ann"):
        with pytest.raises(Refused):
            pilots.listing(pilot.api, pilot.people[who])
    with pytest.raises(Refused):
        send(pilot, key, "watched", "Sam")


def test_the_first_key_is_pinned(pilot: Pilot, key: Identity) -> None:
    pilot.certified("pinned")
    assert pilot.pulled("pinned")
    send(pilot, key, "pinned")
    other = issue(new_root("clinic", demo=False), "pilot", organisation="clinic")
    with pytest.raises(Refused, match="another key"):
        send(pilot, other, "pinned", last_month="2025-12")


def test_what_is_not_signed_as_it_stands_is_refused(pilot: Pilot, key: Identity) -> None:
    pilot.certified("signed")
    assert pilot.pulled("signed")
    clara, pem = pilot.people["Clara"], pem_of(key.certificate).decode()
    envelope = signed_report(key, digest_of(pilot, "signed"))
    good = base64.b64decode(envelope["payload"])
    for change, error in (
        ({"payload": base64.b64encode(good.replace(b"310", b"320")).decode()}, Tampered),
        ({"signatures": []}, Invalid),
        ({"signatures": envelope["signatures"] * 2}, Invalid),
        ({"payloadType": "application/vnd.in-toto+json"}, Invalid),
        ({"more": 1}, Invalid),
    ):
        with pytest.raises(error):
            pilots.receive(pilot.api, clara, {**envelope, **change}, pem)
    with pytest.raises(Invalid, match="no report of a pilot"):
        send(pilot, key, "signed", answers=311)


def test_an_alarm_tells_the_maker_and_suspends_nothing_by_itself(
    pilot: Pilot, key: Identity
) -> None:
    submission = pilot.certified("alarmed")
    assert pilot.pulled("alarmed")
    assert send(pilot, key, "alarmed", watched=ALARM)["alarms"] == ["sensitivity"]
    told = [of for of in notices(pilot.api, pilot.people["Eva"])
            if of["submission"] == submission and of["kind"] == "pilot-alarm"]  # fmt: skip
    assert len(told) == 1
    assert "sensitivity" in told[0]["message"]
    assert "clinic" not in told[0]["message"]
    assert pilot.state(submission) == "certified"
    seen = pilots.listing(pilot.api, pilot.people["Sam"])[-1]
    assert (seen["submission"], seen["alarms"]) == (submission, ["sensitivity"])
    suspend(pilot.api, pilot.people["Sam"], submission, "the pilot of a hospital gives an alarm")
    assert not pilots.listing(pilot.api, pilot.people["Sam"])[-1]["in_force"]
    assert send(pilot, key, "alarmed", last_month="2025-12")  # also of a model that was stopped
    kinds = [of["kind"] for of in notices(pilot.api, pilot.people["Clara"])
             if of["submission"] == submission]  # fmt: skip
    assert "suspended" in kinds


def test_the_database_alone_refuses_what_is_not_the_hospitals(pilot: Pilot, key: Identity) -> None:
    submission = pilot.certified("alone")
    add = (
        "INSERT INTO touchstone.pilot_report (organisation, submission, key_id, envelope,"
        " last_month, patients, alarms, received_by) SELECT 'clinic', %s, key_id, %s, '', 0, '{}',"
        " 'Clara' FROM touchstone.pilot_key"
    )
    envelope = psycopg.types.json.Jsonb(signed_report(key, digest_of(pilot, "alone")))
    with pytest.raises(psycopg.Error, match="hospital that pulled"):
        pilot.sql(add, submission, envelope)
    for change in ("UPDATE touchstone.pilot_report SET alarms = '{}'",
                   "DELETE FROM touchstone.pilot_report",
                   "UPDATE touchstone.pilot_key SET pem = ''"):  # fmt: skip
        with pytest.raises(psycopg.Error):
            pilot.sql(change)


def ends(pilot: Pilot, who: str, submission: str) -> list[str]:
    return [of["kind"] for of in notices(pilot.api, pilot.people[who])
            if of["submission"] == submission and of["kind"].startswith("ends")]  # fmt: skip


def test_the_end_is_told_sixty_thirty_and_seven_days_ahead_once(pilot: Pilot) -> None:
    submission = pilot.certified("ending", days="90 days")
    assert pilot.pulled("ending")
    end = in_("90 days")
    found: list[list[str]] = []
    for days in (89, 61, 59.9, 59, 31, 29.9, 8, 6.9, 1):
        now = end - dt.timedelta(days=days)
        look_at_overdue(pilot.worker, now)
        look_at_overdue(pilot.worker, now)  # another sweep, as after a restart
        found.append(ends(pilot, "Eva", submission))
    assert [len(of) for of in found] == [0, 0, 1, 1, 1, 2, 2, 3, 3]
    three = ["ends-within-60-days", "ends-within-30-days", "ends-within-7-days"]
    assert found[-1] == three
    assert ends(pilot, "Clara", submission) == three
    last = notices(pilot.api, pilot.people["Clara"])[-1]
    assert (last["submission"], last["kind"]) == (submission, three[-1])
    assert f"ends on {end:%Y-%m-%d}, within 7 days" in last["message"]


def test_two_workers_tell_it_once_and_a_late_start_not_thrice(pilot: Pilot) -> None:
    submission = pilot.certified("late", days="5 days")
    failed: list[TouchstoneError] = []

    def sweep() -> None:
        try:
            look_at_overdue(pilot.worker, dt.datetime.now(dt.UTC))
        except TouchstoneError as error:
            failed.append(error)

    workers = [threading.Thread(target=sweep) for _ in range(4)]
    for one in workers:
        one.start()
    for one in workers:
        one.join()
    assert not failed
    assert ends(pilot, "Eva", submission) == ["ends-within-7-days"]
    assert ends(pilot, "Clara", submission) == []  # it did not pull this one


def test_other_weights_threshold_or_preprocessing_is_another_thing_to_certify(
    pilot: Pilot,
) -> None:
    """Each has a digest of its own, and what was certified never takes another one on."""
    weights = {"model.onnx": b"weights"}
    assert model_digest(weights) != model_digest({"model.onnx": b"weightz"})
    dumped = PROTOCOL.model_dump(mode="json")
    assert canonical_digest(dumped) == PROTOCOL.digest
    # The threshold is a field of the protocol, and preprocessing of the contract in it: whatever is
    # changed in either changes the digest.
    changes = dict(_changed(dumped, ()))
    assert ("threshold",) in changes
    assert any(place[0] == "contract" for place in changes)
    for place, changed in changes.items():
        assert canonical_digest(changed) != PROTOCOL.digest, place
    submission = pilot.certified("fixed")
    intake = "UPDATE touchstone.submission SET model_digest = %s WHERE id = %s"
    pilot.sql(intake, D1, submission)
    for column, value in (("model_digest", D2), ("protocol_digest", D2), ("model_version", "9")):
        with pytest.raises(psycopg.Error):
            pilot.sql(
                f"UPDATE touchstone.submission SET {column} = %s WHERE id = %s", value, submission
            )
    with pytest.raises(psycopg.Error):
        pilot.sql("UPDATE touchstone.certificate SET model_version = 9 WHERE submission = %s",
                  submission)  # fmt: skip


def test_a_report_that_no_database_takes_is_told_so(pilot: Pilot, key: Identity) -> None:
    """Not a fault of the server: text without a null, JSON that nests no deeper than it must."""
    pilot.certified("odd")
    assert pilot.pulled("odd")
    with pytest.raises(Invalid, match="plain text"):
        send(pilot, key, "odd", attributes={"sex": {"\0": 160, "M": 140}})
    payload = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    envelope = add_signature(unsigned(PILOT_REPORT_TYPE, payload), key)
    with pytest.raises(Invalid):
        pilots.receive(pilot.api, pilot.people["Clara"], envelope, pem_of(key.certificate).decode())


def test_another_key_counts_once_two_assessors_agreed(pilot: Pilot, key: Identity) -> None:
    """The last test here: no report of the others' key is taken afterwards."""
    pilot.certified("lost")
    assert pilot.pulled("lost")
    send(pilot, key, "lost")
    new, stolen = (issue(new_root("clinic", demo=False), "pilot", organisation="clinic")
                   for _ in range(2))  # fmt: skip
    api, people, pem = pilot.api, pilot.people, pem_of(new.certificate).decode()
    digest = key_id(new.certificate)
    with pytest.raises(NotFound, match="no hospital announced"):
        pilot_keys.agree(api, people["Ada"], digest)
    told = pilot_keys.announce(api, people["Clara"], pem, "the disk died")
    assert (told["key"], told["hospital"], told["pinned"]) == (digest, "clinic", False)
    with pytest.raises(Conflict, match="announced already"):
        pilot_keys.announce(api, people["Clara"], pem, "again")
    old = pem_of(key.certificate).decode()
    with pytest.raises(Refused, match="pinned before"):
        pilot_keys.announce(api, people["Clara"], old, "back")
    for who in ("Clara", "Sam", "Eva", "Aud"):
        with pytest.raises(Refused):
            pilot_keys.agree(api, people[who], digest)
    assert pilot_keys.agree(api, people["Ada"], digest)["agreed_by"] == ["Ada"]
    with pytest.raises(Conflict, match="you agreed to this key already"):
        pilot_keys.agree(api, people["Ada"], digest)
    with pytest.raises(Refused, match="another key"):
        send(pilot, new, "lost", last_month="2025-12")
    token = token_of(pilot.gate.databases, "clinic", "clinician", "Clara")
    clinician, add = Role(pilot.gate.databases.app, token), (
        "INSERT INTO touchstone.pilot_key (organisation, key_id, pem, pinned_by)"
        " VALUES ('clinic', %s, %s, 'Clara')"
    )  # fmt: skip
    for one in (new, stolen):  # the database alone asks for both voices
        with pytest.raises(psycopg.Error, match="two assessors agree"):
            clinician.execute(add, (key_id(one.certificate), pem_of(one.certificate).decode()))
    assert pilot_keys.agree(api, people["Ben"], digest)["pinned"]
    assert pilot_keys.announced(api, people["Clara"], digest)["pinned"], "the hospital sees it"
    send(pilot, new, "lost", last_month="2025-12")
    with pytest.raises(Refused, match="another key"):
        send(pilot, key, "lost", last_month="2026-01")


def _changed(value: Any, place: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """The value with one leaf after the other changed."""
    if isinstance(value, dict):
        for name, of in value.items():
            for where, other in _changed(of, (*place, name)):
                yield where, {**value, name: other}
    elif isinstance(value, list):
        for number, of in enumerate(value):
            for where, other in _changed(of, (*place, number)):
                yield where, [*value[:number], other, *value[number + 1 :]]
    else:
        yield place, f"not {value}"
