"""Which certified version a new one is compared with: found once, written down, and then kept.

    >>> fix_predecessor(work)
    >>> predecessor_of(work)
    Predecessor(submission='5f0c…', version=1, certificate='sha256:…', …)

Rules
-----
1. It is the newest certificate in force of the same organisation's model of the same name, for
   another version or by another protocol. In force: certified or conditional, neither suspended
   nor revoked, its last day not over.
2. It is looked up when the first assessment begins and kept as a step of the submission, found or
   not. Whatever becomes of that certificate, assessing again compares with the same one.
3. What can't be compared is kept with the sentence that says why; it is never left out. Predictions
   that are there and are not those that the run wrote down are Tampered, as everywhere.
4. Where it was run on another cohort version it is run on this one (`certified_run`), if it takes
   the same inputs and does not give masks.
5. The development cohort decides nothing and certifies nothing: there is no predecessor there.
"""

import json
import time

from pydantic import BaseModel, ConfigDict

from registry.audit.reads import note_read
from registry.database.record import Row
from registry.pipeline.scoring import Certified, File
from registry.pipeline.work import Work
from registry.submissions import places
from registry.trust.canonical import sha256_bytes
from registry.trust.dsse import payload_of
from registry.trust.errors import Refused
from validators.comparators.predecessor_evidence import CertifiedVersion

STEP = "predecessor"
RUN = "predecessor/run"
"""The step that is the certified version's run here (`certified_run`)."""


class Predecessor(BaseModel):
    """The certified version, as it was found. `not_compared` is empty where it can be compared.

    `run_here`: it was run on another cohort version, and has to be run on this one first.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    submission: str
    version: int
    certificate: str
    model: str
    protocol: str
    predictions: str | None
    not_compared: str
    run_here: bool = False


def fix_predecessor(work: Work) -> None:
    """Look it up and write down which it is, or that there is none; once for a submission."""
    if work.row["development"] or work.output_of(STEP) is not None:
        return
    started = time.monotonic()
    with work.facility.record.transaction() as now:
        row = now.maybe(
            "certified_before",
            organisation=work.row["organisation"],
            model_name=work.row["model_name"],
            version=work.row["model_version"],
            protocol=work.row["protocol_digest"],
        )
    found = None if row is None else _as_found(work, row).model_dump(mode="json")
    with work.facility.record.transaction() as now:
        now.do(
            "step_done",
            submission=work.id,
            name=STEP,
            output={"found": found},
            seconds=time.monotonic() - started,
        )


def predecessor_of(work: Work) -> Predecessor | None:
    """The one that was written down; None where none was in force."""
    fixed = work.output_of(STEP)
    found = None if fixed is None else fixed["found"]
    return None if found is None else Predecessor.model_validate(found)


def as_compared(work: Work, found: Predecessor) -> tuple[File | None, str]:
    """The certified version's predictions of these cases, or why there are none."""
    if found.not_compared:
        return None, found.not_compared
    if not found.run_here:
        assert found.predictions is not None, "what can be compared has been run"
        return File(places.predictions(found.submission), found.predictions), ""
    made = work.output_of(RUN)
    if made is None:
        raise Refused("the certified version was not run")
    digest = made["predictions"]
    if digest is None:
        return None, str(made["not_compared"])
    return File(places.certified_predictions(work.id, digest), digest), ""


def note_comparison(work: Work, found: Predecessor | None) -> None:
    """Log that the certified version's predictions are about to be read, where they are."""
    file = None if found is None else as_compared(work, found)[0]
    if found is not None and file is not None:
        note_read(
            work.facility, work.row, "predictions-read", certified=found.certificate,
            digest=file.digest,
        )  # fmt: skip


def scored_with(work: Work, found: Predecessor | None) -> Certified | None:
    """What the process that scores is told of it."""
    if found is None:
        return None
    with work.facility.record.transaction() as now:
        protocol = now.one("protocol_by_digest", digest=found.protocol)
    file, why = as_compared(work, found)
    return Certified(
        version=CertifiedVersion(
            version=found.version,
            certificate=found.certificate,
            model=found.model,
            protocol=found.protocol,
            predictions=None if file is None else file.digest,
        ),
        submission=work.id if found.run_here else found.submission,
        predictions=file,
        protocol=protocol["body"],
        not_compared=why,
    )


def _as_found(work: Work, row: Row) -> Predecessor:
    ran = None if row["output"] is None else str(row["output"]["predictions"])
    here = all(row[of] == work.row[of] for of in ("cohort_id", "cohort_version"))
    return Predecessor(
        submission=str(row["id"]),
        version=row["model_version"],
        certificate=sha256_bytes(payload_of(row["envelope"])),
        model=row["model_digest"],
        protocol=row["protocol_digest"],
        predictions=ran,
        not_compared=_why_not(work, row, ran, here=here),
        run_here=not here,
    )


def _why_not(work: Work, row: Row, ran: str | None, *, here: bool) -> str:
    """Why nothing can be compared, in one sentence; empty where it can.

    here: whether the certified version was run on this cohort version.
    """
    asked, before = work.protocol, json.loads(row["protocol_body"])
    if before.get("task", "binary") != asked.task:
        return (
            f"the certified version answered a {before.get('task', 'binary')} question, and this "
            f"one a {asked.task} question"
        )
    if (before.get("contract") or {}).get("score") != work.contract.score:
        return "the certified version was asked for another output than this one"
    if not here:
        if work.contract.reference is not None:
            return "a certified version that gives masks is not run again on another cohort version"
        inputs = work.contract.model_dump(mode="json")["inputs"]
        if before["contract"].get("inputs") != inputs:
            return "the certified version takes other inputs than this one"
        if not work.facility.store.list(places.model(str(row["model_digest"]))):
            return "the facility no longer holds the certified version's files"
        return ""
    if ran is None or not work.facility.store.exists(places.predictions(str(row["id"]))):
        return "the facility no longer holds the predictions of the certified version's run"
    return ""
