"""The end of a cohort's keys: not while a certificate rests on it, nor a run."""

import pytest

from registry.identity.caller import Caller
from registry.submissions import review
from registry.submissions.cohort_life import NewCohortAct, act, life
from registry.submissions.submit import view
from registry.trust.errors import Refused
from tests.registry.house import House


@pytest.fixture
def sam(house: House) -> Caller:
    return house.callers["Sam"]


def done(house: House, caller: Caller, kind: str) -> str:
    new = NewCohortAct.model_validate({"kind": kind, "reason": "as agreed"})
    return str(act(house.facility, caller, "c", "1", new)["state"])


def test_keys_are_not_destroyed_under_a_certificate_in_force_or_a_run(
    house: House, sam: Caller
) -> None:
    certified, running = house.in_review(), house.in_review("fail")
    for person in ("Ada", "Ben"):
        review.decide(house.facility, house.callers[person], certified,
                      house.signed(person, certified))  # fmt: skip
    with pytest.raises(Refused, match="is locked: there is nothing to destroy-keys"):
        done(house, sam, "destroy-keys")
    assert done(house, sam, "retire") == "retired"
    assert house.row(certified)["state"] == "certified"  # a certificate is left alone, and shows it
    assert view(house.facility, house.callers["Ada"], certified)["cohort_state"] == "retired"
    for end in (None, running):
        with pytest.raises(Refused, match="a certificate in force, or a submission under way"):
            done(house, sam, "destroy-keys")
        if end is not None:
            break
        house.superuser(
            f"UPDATE touchstone.certificate SET in_force = false WHERE submission = '{certified}'"
        )
        house.superuser(
            f"UPDATE touchstone.submission SET state = 'expired' WHERE id = '{certified}'"
        )
    for person in ("Ada", "Ben"):
        review.decide(house.facility, house.callers[person], running,
                      house.signed(person, running, "reject"))  # fmt: skip
    with pytest.raises(Refused, match="may not do"):
        done(house, house.callers["Ada"], "destroy-keys")
    done(house, sam, "destroy-keys")
    done(house, sam, "destroy-keys")  # again, after a crash: once on record
    acts = [one["kind"] for one in life(house.facility, sam, "c", "1")["acts"]]
    assert acts == ["retire", "destroy-keys"]
    logged = house.owner.execute(
        "SELECT kind FROM touchstone.event WHERE subject = 'c/1' ORDER BY seq"
    ).fetchall()
    assert logged[-2:] == [("cohort-retired",), ("cohort-keys-destroyed",)]
