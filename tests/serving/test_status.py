"""What a hospital believes of a facility's status, and every way in which it is deceived."""

import copy
import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from registry.trust.errors import TouchstoneError
from registry.trust.keys import Identity, issue, new_root
from registry.trust.status import DOWNGRADE, ENDORSEMENT, TIMESTAMP, Listed, moment_of
from serving.bundle.memory import Remembered, open_memory
from serving.bundle.status import Status, checked, fresh, in_force
from serving.bundle.status_copy import (
    collect,
    export,
    fetch,
    folder_reader,
    kept,
    standing_from,
)
from tests.serving.status_made import (
    AUTHORITY,
    NOW,
    OTHER,
    PEOPLE,
    STATEMENT,
    Made,
    first_root,
    root,
    stop,
)

DAY = dt.timedelta(days=1)
ROOT = AUTHORITY.certificate
Files = dict[str, bytes]


def remembered(*made: Made, state: Path) -> Remembered:
    """What a hospital remembers that saw these, one after the other."""
    for one in made:
        fetch(state, ROOT, one.at, one.files().get)
    return open_memory(state, ROOT, made[-1].at).remembered


def code_of(act: Callable[[], object]) -> str:
    """The code of a refusal; its sentence is one line that says what to do or who to ask."""
    with pytest.raises(TouchstoneError) as caught:
        act()
    assert "\n" not in caught.value.message
    assert len(caught.value.message) > 30
    return caught.value.code


def test_a_good_status_says_what_is_in_force_until_when_and_by_whom() -> None:
    status = checked(Made().files(), ROOT, NOW)
    assert in_force(status, STATEMENT, NOW)[0] == "ok"
    assert status.signers == (("Ada", "tef"), ("Ben", "tef"))
    assert abs(status.use_until() - (NOW + 7 * DAY)) < dt.timedelta(seconds=2)
    assert abs(status.signed_at - NOW) < dt.timedelta(seconds=2)
    assert fresh(status, NOW + 6 * DAY)[0] == "ok"
    assert code_of(lambda: in_force(status, OTHER, NOW)) == "not_listed"


def test_a_machine_stops_and_only_two_assessors_lift_that_very_stop() -> None:
    first, second = stop(NOW - 2 * DAY), stop(NOW - DAY)
    lifted = {STATEMENT: Listed(11, first.since)}

    def said(**made: Any) -> str:
        status = checked(Made(**made).files(), ROOT, NOW)
        return status.standing(STATEMENT).state

    assert said(stops={STATEMENT: first}) == "suspended"
    assert said(stops={STATEMENT: first}, listed={}) == "suspended"
    assert said(stops={STATEMENT: first}, listed=lifted) == "in_force"
    assert said(stops={STATEMENT: second}, listed=lifted) == "suspended"
    assert said(stops={STATEMENT: stop(NOW, "revoked")}, listed=lifted) == "revoked"
    revoked = stop(NOW - 2 * DAY, "revoked")
    assert said(stops={STATEMENT: revoked}, listed=lifted) == "revoked", "for good"
    status = checked(Made(stops={STATEMENT: first}).files(), ROOT, NOW)
    assert code_of(lambda: in_force(status, STATEMENT, NOW)) == "suspended"


def test_grace_is_the_hospitals_own_and_ends_where_people_or_90_days_end_it() -> None:
    status = checked(Made(targets_at=NOW - 60 * DAY).files(), ROOT, NOW)
    at = NOW + 10 * DAY
    assert code_of(lambda: fresh(status, at)) == "status_expired"
    assert fresh(status, at, 5 * DAY)[0] == "warning"
    assert in_force(status, STATEMENT, at, 5 * DAY)[0] == "ok"
    assert code_of(lambda: in_force(status, STATEMENT, at, DAY)) == "status_expired"
    # Whatever grace is asked for: 30 days on, the signatures of the two assessors end.
    assert code_of(lambda: fresh(status, NOW + 31 * DAY, 400 * DAY)) == "status_expired"
    status = checked(Made().files(), ROOT, NOW)
    assert fresh(status, NOW + 89 * DAY, 400 * DAY)[0] == "warning"
    assert code_of(lambda: fresh(status, NOW + 91 * DAY, 400 * DAY)) == "status_expired"


def flip(name: str) -> Callable[[Files], None]:
    """A digit of a signature in a file: still hexadecimal, whatever it was."""

    def change(files: Files) -> None:
        at = files[name].index(b'"sig":"') + 20
        other = b"0" if files[name][at] != ord("0") else b"1"
        files[name] = files[name][:at] + other + files[name][at + 1 :]

    return change


def _no_hash(metadata: Any) -> None:
    metadata.signed.meta["targets.json"].hashes = None


def _years(metadata: Any) -> None:
    metadata.signed.expires += 3650 * DAY


def _second_name(made: Any) -> None:
    """Ada's key once more, under another name."""
    ada = next(k for k in made.signed.roles["targets"].keyids if _holder(made, k) == "Ada")
    twin = copy.deepcopy(made.signed.keys[ada])
    twin.keyid = "0" * 64
    made.signed.keys[twin.keyid] = twin
    made.signed.roles["targets"].keyids.append(twin.keyid)


def _holder(made: Any, name: str) -> str:
    return "Ada" if "Ada" in str(_subject(made, name)) else "another"


def _subject(made: Any, name: str) -> Any:
    from registry.trust.status import holder_certificate

    leaf = holder_certificate(made.signed.keys[name])
    return None if leaf is None else leaf.subject


STRANGER: Identity = issue(new_root("other", demo=True), "Ada", organisation="tef")
ADA_AGAIN: Identity = issue(AUTHORITY, "Ada", organisation="tef")


def _also(identity: Identity) -> Callable[[Any], None]:
    """A further key in the role of the assessors."""
    from registry.trust.status import person_key

    def change(made: Any) -> None:
        made.signed.add_key(person_key(identity.certificate), "targets")

    return change


def _delegates_more(metadata: Any) -> None:
    roles = metadata.signed.delegations.roles
    other = copy.deepcopy(roles[DOWNGRADE])
    other.name = "upgrade"
    roles["upgrade"] = other


def _root_with(change: Callable[[Any], None]) -> tuple[Any, ...]:
    return (root(1, ("Sam", "Uma"), ("Ada", "Ben"), ("Sam", "Uma"), change=change),)


HOSTILE: dict[str, tuple[Made, Callable[[Files], object] | None, str]] = {
    "another facility's root": (
        Made(authority=new_root("tef", demo=True)), None, "status_other_root"),
    "a first root that the X.509 root did not sign": (
        Made(), lambda f: f.update({"1.root.json": root(
            1, ("Sam", "Uma"), ("Ada", "Cleo"), ("Sam", "Uma")).to_bytes()}),
        "status_bad_signature"),
    "no endorsement": (Made(), lambda f: f.pop(ENDORSEMENT), "status_incomplete"),
    "no list of stops": (Made(), lambda f: f.pop("1.downgrade.json"), "status_incomplete"),
    "a root left out": (
        Made(roots=(first_root(), root(2, ("Sam", "Uma"), ("Ada", "Ben"), ("Sam", "Uma")),
                    root(3, ("Sam", "Uma"), ("Ada", "Ben"), ("Sam", "Uma")))),
        lambda f: f.pop("2.root.json"), "status_incomplete"),
    "no JSON": (Made(), lambda f: f.update({TIMESTAMP: b"<html>"}), "status_malformed"),
    "a part of another role": (
        Made(), lambda f: f.update({TIMESTAMP: f["1.snapshot.json"]}), "status_malformed"),
    "a bit flipped in the timestamp": (Made(), flip(TIMESTAMP), "status_bad_signature"),
    "a bit flipped in the list": (Made(), flip("1.targets.json"), "status_mixed"),
    "one assessor": (Made(signers=(PEOPLE["Ada"],)), None, "status_one_signer"),
    "an assessor and a steward": (
        Made(signers=(PEOPLE["Ada"], PEOPLE["Sam"])), None, "status_one_signer"),
    "no assessor": (Made(signers=(PEOPLE["Cleo"],)), None, "status_bad_signature"),
    "one key under two names": (Made(roots=_root_with(_second_name)), None, "status_key_twice"),
    "one assessor with two keys": (
        Made(roots=_root_with(_also(ADA_AGAIN)), signers=(PEOPLE["Ada"], ADA_AGAIN)),
        None, "status_one_person"),
    "a key under another X.509 root": (
        Made(roots=_root_with(_also(STRANGER)), signers=(PEOPLE["Ben"], STRANGER)),
        None, "status_one_signer"),
    "one holder of the root": (
        Made(roots=(root(1, ("Sam", "Uma"), ("Ada", "Ben"), ("Sam",)),)),
        None, "status_one_signer"),
    "a new root by its own holders alone": (
        Made(roots=(first_root(), root(2, ("Cleo", "Ben"), ("Ada", "Ben"), ("Cleo", "Ben")))),
        None, "status_bad_signature"),
    "a new root by one of the old": (
        Made(roots=(first_root(), root(2, ("Sam", "Ben"), ("Ada", "Ben"), ("Sam", "Ben")))),
        None, "status_one_signer"),
    "the machine lists a certificate": (
        Made(), lambda f: f.update({"1.targets.json": Made(signers=()).files()["1.targets.json"]}),
        "status_mixed"),
    "parts of two statuses": (
        Made(), lambda f: f.update({"1.downgrade.json": Made(
            stops={OTHER: stop(NOW)}).files()["1.downgrade.json"]}),
        "status_mixed"),
    "a part named without a digest": (
        Made(change={"snapshot": _no_hash}), None, "status_malformed"),
    "somebody else may change the list": (
        Made(change={"targets": _delegates_more}), None, "status_malformed"),
    "a timestamp for ten years": (Made(change={"timestamp": _years}), None, "status_dates"),
    "a list for ten years": (Made(change={"targets": _years}), None, "status_dates"),
    "a root for ten years": (Made(roots=_root_with(_years)), None, "status_dates"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_false_status_is_refused_with_a_code_of_its_own(name: str) -> None:
    made, change, code = HOSTILE[name]
    files = made.files()
    if change is not None:
        change(files)
    assert code_of(lambda: checked(files, ROOT, NOW)) == code


def test_a_stolen_machine_key_brings_nothing_back(tmp_path: Path) -> None:
    stopped = Made(stops={STATEMENT: stop(NOW)}, versions={"timestamp": 4})
    memory = remembered(stopped, state=tmp_path)
    thief = Made(versions={"timestamp": 9, "snapshot": 9, DOWNGRADE: 9})
    assert code_of(lambda: checked(thief.files(), ROOT, NOW, memory)) == "status_weakened"
    # Once two assessors have signed anew, it brings nothing back at a hospital that saw nothing.
    later = thief.but(listed={}, versions=thief.versions | {"targets": 2})
    status = checked(later.files(), ROOT, NOW)
    assert code_of(lambda: status.standing(STATEMENT)) == "not_listed"
    lifts = {STATEMENT: Listed(11, moment_of(NOW))}
    lifted = thief.but(listed=lifts, versions=thief.versions | {"targets": 2})
    assert checked(lifted.files(), ROOT, NOW, memory).standing(STATEMENT).state == "in_force"


BEFORE = Made(versions=dict.fromkeys(("timestamp", "snapshot", "targets", DOWNGRADE), 5))


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", DOWNGRADE])
def test_what_goes_back_is_refused(role: str, tmp_path: Path) -> None:
    memory = remembered(BEFORE, state=tmp_path)
    back = BEFORE.but(versions=dict.fromkeys(BEFORE.versions, 6) | {role: 4})
    assert code_of(lambda: checked(back.files(), ROOT, NOW, memory)) == "status_rolled_back"


def test_two_statuses_under_one_version_are_a_fork(tmp_path: Path) -> None:
    memory = remembered(BEFORE, state=tmp_path)
    other = BEFORE.but(listed={STATEMENT: Listed(11), OTHER: Listed(2)})
    assert code_of(lambda: checked(other.files(), ROOT, NOW, memory)) == "status_forked"
    again = (root(1, ("Sam", "Uma"), ("Ada", "Ben", "Cleo"), ("Sam", "Uma")),)
    forked = BEFORE.but(roots=again, versions=dict.fromkeys(BEFORE.versions, 6))
    assert code_of(lambda: checked(forked.files(), ROOT, NOW, memory)) == "status_forked"


def test_the_root_rotates_by_several_versions_at_once_and_not_back(tmp_path: Path) -> None:
    memory = remembered(Made(), state=tmp_path)
    second = root(2, ("Uma", "Cleo"), ("Ada", "Ben"), ("Sam", "Uma", "Cleo"))
    third = root(3, ("Uma", "Cleo"), ("Cleo", "Ben"), ("Uma", "Cleo"))
    later = Made(
        roots=(first_root(), second, third), signers=(PEOPLE["Cleo"], PEOPLE["Ben"]),
        versions=dict.fromkeys(BEFORE.versions, 2),
    )  # fmt: skip
    status = checked(later.files(), ROOT, NOW, memory)
    assert status.signers == (("Ben", "tef"), ("Cleo", "tef"))
    memory = remembered(later, state=tmp_path)
    back = later.but(
        roots=(first_root(), second), signers=(PEOPLE["Ada"], PEOPLE["Ben"]),
        versions=dict.fromkeys(BEFORE.versions, 3),
    )  # fmt: skip
    assert code_of(lambda: checked(back.files(), ROOT, NOW, memory)) == "status_rolled_back"
    # Who left the role counts no more.
    left = later.but(signers=(PEOPLE["Ada"], PEOPLE["Ben"]))
    assert code_of(lambda: checked(left.files(), ROOT, NOW)) == "status_one_signer"


def test_a_folder_on_a_stick_is_enough_and_stands_for_itself(tmp_path: Path) -> None:
    files = Made().files()
    export(files, tmp_path / "stick")
    assert collect(folder_reader(tmp_path / "stick")) == files
    state = tmp_path / "state"
    status = fetch(state, ROOT, NOW, folder_reader(tmp_path / "stick"))
    assert isinstance(status, Status)
    assert kept(state, ROOT, NOW)[0] == status
    assert standing_from(state, ROOT)(STATEMENT, NOW).state == "in_force"


def test_a_status_that_is_refused_leaves_what_was_there(tmp_path: Path) -> None:
    fetch(tmp_path, ROOT, NOW, BEFORE.files().get)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for bad in (Made().files(), {}, BEFORE.but(signers=(PEOPLE["Ada"],)).files()):
        code_of(lambda bad=bad: fetch(tmp_path, ROOT, NOW, bad.get))  # type: ignore[misc]
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_status_that_has_ended_is_kept_for_the_revocation_in_it(tmp_path: Path) -> None:
    late = NOW + 20 * DAY
    status = fetch(tmp_path, ROOT, late, Made(stops={STATEMENT: stop(NOW)}).files().get)
    assert code_of(lambda: fresh(status, late)) == "status_expired"
    assert status.standing(STATEMENT).state == "suspended"


def test_the_standing_follows_what_is_fetched_later(tmp_path: Path) -> None:
    ask = standing_from(tmp_path, ROOT, DAY)
    assert code_of(lambda: ask(STATEMENT, NOW)) == "status_missing"
    fetch(tmp_path, ROOT, NOW, Made().files().get)
    ask(STATEMENT, NOW).require(NOW)
    newer = Made(stops={STATEMENT: stop(NOW)}, versions=dict.fromkeys(BEFORE.versions, 2))
    newer = newer.but(versions=newer.versions | {"targets": 1})
    fetch(tmp_path, ROOT, NOW, newer.files().get)
    assert code_of(lambda: ask(STATEMENT, NOW).require(NOW)) == "suspended"


def test_what_a_stolen_machine_key_did_ends_with_that_key(tmp_path: Path) -> None:
    """It can name versions and moments that no honest status would ever reach."""
    huge = dict.fromkeys(("snapshot", "timestamp", DOWNGRADE), 10**9)
    fetch(tmp_path, ROOT, NOW, Made(versions=huge).files().get)
    code = code_of(lambda: fetch(tmp_path, ROOT, NOW, Made(stops={OTHER: stop(NOW)}).files().get))
    assert code == "status_rolled_back"
    other = ec.generate_private_key(ec.SECP256R1())
    second = root(2, ("Sam", "Uma"), ("Ada", "Ben"), ("Sam", "Uma"), machine=other)
    honest = Made(roots=(first_root(), second), machine=other, versions={"targets": 2})
    stopped = honest.but(versions={**dict.fromkeys(huge, 2), "targets": 2},
                         stops={OTHER: stop(NOW)})  # fmt: skip
    for made in (honest, stopped):
        fetch(tmp_path, ROOT, NOW, made.files().get)
    assert kept(tmp_path, ROOT, NOW)[0].stops
    for older in (honest, Made(versions=huge)):
        code = code_of(lambda older=older: fetch(tmp_path, ROOT, NOW, older.files().get))
        assert code == "status_rolled_back"
    far = stopped.but(stops={OTHER: stop(NOW + 8 * DAY)})
    assert code_of(lambda: checked(far.files(), ROOT, NOW)) == "status_dates"
