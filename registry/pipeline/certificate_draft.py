"""The bundle and the statement, made before anyone signs: a pure function of what was assessed.

Every subject of the certificate exists before the statement does, so that an assessor signs over
the bytes that the hospital will check.
"""

import datetime as dt
import json
from typing import TYPE_CHECKING

from registry.pipeline.bundle_documents import documents
from registry.pipeline.certificate_predicate import certified
from registry.pipeline.killed import unless_killed
from registry.submissions import places
from registry.submissions.lock import other_versions
from registry.trust.canonical import canonical
from registry.trust.certificate import CertifiedLog, new_statement
from serving.bundle.golden import make_inputs, record
from serving.bundle.pack import bundle_files, subjects
from validators.evidence import Report
from validators.report.disclosure import release
from validators.report.label import model_label

if TYPE_CHECKING:
    from registry.pipeline.work import Work

CONDITIONS_DAYS = 90
"""When conditions are due where the protocol does not say (`conditions_days`)."""


def bundle_and_statement(work: "Work", log: CertifiedLog) -> tuple[dict[str, bytes], bytes]:
    """(files of the bundle by path, canonical bytes of the statement).

    `log` is the audit log over the events that led to the verdict.
    """
    row, protocol, contract = work.row, work.protocol, work.contract
    report = Report.model_validate(json.loads(work.facility.store.get(places.report(work.id))))
    # The moment of assessment, from the record: preparing again gives the same statement, also
    # where another version of the cohort was locked meanwhile. Its releases look at this one.
    assessed: dt.datetime = row["changed_at"]
    others = other_versions(work.facility, None, row, until=assessed)
    released = release(report, "certified", protocol.disclosure, others)
    # The facility's own conditions quote exact numbers; a certificate travels.
    conditions = tuple(released["verdict"]["conditions"])
    issued = assessed.astimezone(dt.UTC).replace(microsecond=0)
    not_after = issued + dt.timedelta(days=protocol.validity_days)
    conditions_due = None
    if report.verdict.overall == "conditional":
        days = protocol.conditions_days or CONDITIONS_DAYS
        conditions_due = issued + dt.timedelta(days=days)
        not_after = min(not_after, conditions_due)  # met by a new submission, or it ends
    files = work.model_files()
    with work.start_sandbox() as sandbox:
        unless_killed(sandbox, lambda: sandbox.load(files))
        made = make_inputs(contract, seed=protocol.digest)
        golden = unless_killed(sandbox, lambda: record(sandbox, made, contract))
    packed = bundle_files(
        model_files=files,
        contract=canonical(contract.model_dump(mode="json")),
        protocol=canonical(protocol.model_dump(mode="json")),
        report=canonical(released),
        label=model_label(
            released,
            model=f"{row['organisation']}/{row['model_name']} {row['model_version']}",
            conditions=conditions,
            not_after=not_after,
        ),
        golden=golden,
        documents=documents(work, report, released, others, files, issued, not_after),
    )
    predicate = certified(
        row,
        report,
        released,
        protocol,
        contract,
        facility=work.facility.root.subject.rfc4514_string(),
        log=log,
        issued=issued,
        not_after=not_after,
        conditions_due=conditions_due,
    )
    return packed, new_statement(subjects(packed), predicate)
