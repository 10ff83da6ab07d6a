"""running → assessed: evidence, verdict and report from predictions and reference standard.

Rules
-----
1. It holds the reference key and never the input key.
2. Every file of predictions is checked against the digest that its run wrote down: the run's own,
   those under perturbation, and those of other models that the protocol compares with.
3. The same files give the same report, so that a step that is run again writes the same bytes.
4. Evidently's page shows single patients and holds fresh identifiers: it has a place of its own
   that only the facility reads, is written once, and nothing depends on it.
"""

import datetime as dt
import logging
import time
from typing import Any

from registry.audit.reads import note_read
from registry.pipeline.comparators import comparator_predictions
from registry.pipeline.perturbed_runs import step_of
from registry.pipeline.predictions import case_table, stored_predictions
from registry.pipeline.work import Work
from registry.submissions import places
from registry.submissions.declarations import declaration_of
from registry.submissions.lock import load_manifest
from registry.submissions.states import deadline
from registry.trust.canonical import sha256_bytes
from registry.trust.errors import Refused, Unavailable
from validators.cohort.keys import open_keys
from validators.cohort.stream import read_reference
from validators.declaration import Declaration
from validators.drift.columns import asked_drift, patient_columns
from validators.drift.evidence import DriftEvidence
from validators.drift.facility import evidently_report, expanded
from validators.evaluate import evaluate
from validators.evidence import Digests, Environment
from validators.leakage.evidence import held_reasons
from validators.report.build import build_report, code_digest, environment_digest, report_bytes
from validators.report.html import report_html

log = logging.getLogger("touchstone.pipeline")


def assess(work: Work) -> None:
    """Compute evidence and verdict, and write the report."""
    started = time.monotonic()
    ran = work.output_of("run")
    if ran is None:
        raise Refused("there are no predictions to assess")
    work.trace.model_had_a_hand = True  # what it answered is about to be read
    store, protocol = work.facility.store, work.protocol
    manifest = load_manifest(work.facility, work.row)
    note_read(work.facility, work.row, "predictions-read", digest=ran["predictions"])
    note_read(work.facility, work.row, "reference-read", part="reference standard")
    reference_key = open_keys(work.facility.settings.cohort_keys, manifest).reference()
    data = stored_predictions(work.facility, work.id, ran["predictions"])
    perturbed, runs = _perturbed(work)
    others, comparators = comparator_predictions(work)
    reference = read_reference(manifest, store, reference_key)
    table = case_table(data, reference, work.asked, manifest, perturbed | others)
    declaration = declaration_of(work.facility, work.row)
    environment = Environment.model_validate(ran["environment"])
    report = build_report(
        evaluate(table, work.asked),
        protocol,
        Digests(
            model=work.row["model_digest"],
            protocol=protocol.digest,
            cohort_root=manifest.root,
            predictions=ran["predictions"],
            code=code_digest(),
            environment=environment_digest(environment),
        ),
        environment,
        manifest.citation,
        drift=_drift(work, declaration, reference),
    )
    document = report_bytes(report)
    store.put(places.report(work.id), document)
    store.put(places.report_page(work.id), report_html(report).encode())
    with work.facility.record.transaction() as now:
        now.do(
            "step_done",
            submission=work.id,
            name="assess",
            output={
                "report": sha256_bytes(document),
                "verdict": report.verdict.overall,
                "perturbed": runs,
                "comparators": comparators,
                "declaration": None if declaration is None else declaration.digest,
            },
            seconds=time.monotonic() - started,
        )
        now.do(
            "submission_assessed",
            id=work.id,
            verdict=report.verdict.overall,
            report_digest=sha256_bytes(document),
            held_for_review="; ".join(held_reasons(report.leakage))[:2000] or None,
            deadline=deadline("assessed", dt.datetime.now(dt.UTC)),
        )


def _perturbed(work: Work) -> tuple[dict[str, bytes], dict[str, str]]:
    """(files by the perturbation's name, their digests)."""
    files, digests = {}, {}
    for perturbation in work.protocol.perturbations:
        made = work.output_of(step_of(perturbation))
        if made is None:
            raise Refused(f"the run under {perturbation.name} was not made")
        name, digest = perturbation.name, made["predictions"]
        note_read(work.facility, work.row, "predictions-read", digest=digest, under=name)
        files[name] = stored_predictions(work.facility, work.id, digest, name)
        digests[name] = digest
    return files, digests


def _drift(work: Work, declaration: Declaration | None, reference: Any) -> DriftEvidence | None:
    """The cohort against the declared development data, if the protocol asks for it."""
    if work.protocol.drift is None or declaration is None or declaration.development is None:
        return None
    declared = declaration.development
    attributes = {name: reference[name].to_pylist() for name in reference.column_names}
    columns = patient_columns(declared, reference["patient"].to_pylist(), attributes)
    place = places.drift_page(work.id)
    if columns and not work.facility.store.exists(place):
        try:
            page = evidently_report(expanded(declared), columns)
        except Unavailable:
            pass  # Evidently is not installed here
        except Exception as error:  # noqa: BLE001 - the page decides nothing, and ends nothing
            log.warning("submission %s: no drift page: %s", work.id, type(error).__name__)
        else:
            work.facility.store.put(place, page.html)
    return asked_drift(work.protocol, declared, columns)
