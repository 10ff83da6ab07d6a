"""A maker's declaration: asked for when a model is submitted, kept by its digest, held against."""

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from registry.pipeline.drift import compared
from registry.settings import Databases
from registry.storage.key_encryption import facility_keys
from registry.submissions import places
from registry.submissions.lock import load_manifest
from registry.submissions.review import drift_page_for
from registry.submissions.submit import view
from registry.trust.errors import Invalid, NotFound, Refused, Unavailable
from tests.registry.facility_example import Example, facility_example, honest
from tests.registry.further_example import (
    DEVELOPMENT,
    carried,
    exchange,
    further_attributes,
    report_of,
    step,
)
from validators.cohort.stream import read_reference
from validators.declaration import parse_declaration
from validators.protocol.read import parse_protocol

ETHICS = "approval by an ethics committee"
WHOLE = {"development": DEVELOPMENT, "regulatory_references": {ETHICS: "EC 2026/114"}}
ASKS = {"drift": {}, "regulatory_references": [ETHICS]}


@pytest.fixture(scope="module")
def life(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    with facility_example(
        database, tmp_path_factory.mktemp("declared"), add=further_attributes
    ) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_left(life: Example) -> None:
    life.fresh()


@pytest.mark.parametrize(
    ("declaration", "says"),
    [
        (None, "asks how the development data were distributed: give `development`"),
        ({"regulatory_references": {ETHICS: "x"}}, "give `development`"),
        ({"development": DEVELOPMENT}, f"asks for a reference to '{ETHICS}'"),
    ],
)
def test_what_the_protocol_asks_for_comes_with_the_submission(
    life: Example, declaration: Any, says: str
) -> None:
    life.fresh_protocol(**ASKS)
    before = life.sql("SELECT count(*) FROM touchstone.submission")
    with pytest.raises(Refused, match=says) as refused:
        life.submitted(declaration=declaration)
    assert refused.value.code == "declaration_missing"
    assert "--declaration" in refused.value.message
    assert life.sql("SELECT count(*) FROM touchstone.submission") == before


@pytest.mark.parametrize(
    "declaration",
    [
        WHOLE | {"patients": 12},
        WHOLE | {"development": DEVELOPMENT | {"version": float("nan")}},
        {"development": {**DEVELOPMENT, "attributes": [
            DEVELOPMENT["attributes"][1] | {"mean": float("nan")}]}},  # type: ignore[index]
        {"development": {**DEVELOPMENT, "attributes": [
            {"kind": "categories", "attribute": "x",
             "counts": {str(n): 1 for n in range(1000)}}]}},
        "development",
    ],
)  # fmt: skip
def test_what_is_no_declaration_is_refused_and_nothing_is_kept(
    life: Example, declaration: Any
) -> None:
    life.fresh_protocol(**ASKS)
    kept = life.api.store.list("declarations")
    with pytest.raises(Invalid, match="the declaration") as refused:
        life.submitted(declaration=declaration)
    assert "\n" not in refused.value.message
    assert life.api.store.list("declarations") == kept


def test_it_is_kept_under_its_digest_and_bound(life: Example) -> None:
    life.fresh_protocol(**ASKS)
    submission = life.submitted(declaration=WHOLE)
    digest = parse_declaration(WHOLE).digest
    for who in ("Eva", "Ada"):
        assert view(life.api, life.people[who], submission)["declaration"] == digest
    kept = json.loads(life.api.store.get(places.declaration(digest)))
    assert parse_declaration(kept).digest == digest
    assert life.sql(
        "SELECT detail::jsonb ->> 'digest' FROM touchstone.event"
        " WHERE subject = %s AND kind = 'declaration-given'", submission,
    ) == [(digest,)]  # fmt: skip
    for other in ("NULL", f"'sha256:{'0' * 64}'"):
        with pytest.raises(psycopg.errors.RestrictViolation, match="is never changed"):
            life.sql(
                f"UPDATE touchstone.submission SET declaration_digest = {other} WHERE id = %s",
                submission,
            )


def test_the_cohort_is_held_against_it_one_row_a_patient(life: Example) -> None:
    life.fresh_protocol(**ASKS)
    submission = life.queued(honest(), declaration=WHOLE)
    assert carried(life, submission) == "in_review"
    drift = report_of(life, submission)["drift"]
    assert [(of["attribute"], of["cohort"]) for of in drift["attributes"]] == [
        ("site", 13), ("age", 13),
    ]  # fmt: skip
    assert drift["absent"] == ["slice_thickness", "scanner"], "thin and thick are no numbers"
    assert step(life, submission, "assess")["declaration"] == parse_declaration(WHOLE).digest


def test_a_declaration_that_was_exchanged_is_noticed(life: Example) -> None:
    life.fresh_protocol(**ASKS)
    submission = life.queued(honest(), declaration=WHOLE)
    other = parse_declaration(WHOLE | {"regulatory_references": {ETHICS: "EC 2026/999"}})
    place = places.declaration(parse_declaration(WHOLE).digest)
    before = exchange(life, place, json.dumps(other.model_dump(mode="json")).encode())
    try:
        assert carried(life, submission) == "technical_failure"
    finally:
        exchange(life, place, before)
    assert life.row(submission)["failure_code"] == "tampered"
    assert life.attempt(submission) is None, "it is looked at before anything is decrypted"


def test_the_page_on_single_patients_is_for_the_facility_alone(life: Example) -> None:
    pytest.importorskip("evidently")
    life.fresh_protocol(**ASKS)
    submission = life.queued(honest(), declaration=WHOLE)
    with pytest.raises(NotFound, match="not assessed"):
        drift_page_for(life.api, life.people["Ada"], submission)
    assert carried(life, submission) == "in_review"
    page = drift_page_for(life.api, life.people["Ada"], submission)
    assert b"<html" in page
    for who in ("Eva", "Finn", "Clara"):
        with pytest.raises(Refused):
            drift_page_for(life.api, life.people[who], submission)
    read = life.sql(
        "SELECT actor FROM touchstone.event WHERE subject = %s AND kind = 'drift-page-read'",
        submission,
    )
    assert read == [("Ada",)]
    assert not [path for path in life.api.store.list(places.bundle(submission)) if "drift" in path]


@pytest.mark.parametrize(
    "trouble", [Unavailable("Evidently is not installed here"), ZeroDivisionError("patient 7")]
)
def test_without_the_page_the_aggregates_are_the_same(
    life: Example, trouble: Exception, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """In the process that scores, which is asked here as it asks itself."""
    life.fresh_protocol(**ASKS)
    manifest = load_manifest(life.worker, life.row(life.queued(honest(), declaration=WHOLE)))
    key = facility_keys(life.worker.settings, manifest).reference()
    reference = read_reference(manifest, life.worker.store, key)
    asks = parse_protocol(life.body | ASKS)
    whole = parse_declaration(WHOLE)
    found, page = compared(asks, whole, reference, page=True)

    def fails(*_: Any) -> Any:
        raise trouble

    monkeypatch.setattr("validators.drift.facility.evidently_report", fails)
    assert page is not None
    assert compared(asks, whole, reference, page=True) == (found, None)
    assert compared(asks, whole, reference, page=False) == (found, None)
    assert found is not None
    assert len(found.attributes) == 2
    assert "patient 7" not in "".join(capfd.readouterr())
