"""Score predictions in a process of its own, which alone holds the reference standard.

    >>> scored = score_apart(facility.settings, Task(…))

Rules
-----
1. The process that streams inputs to a model never unwraps the reference standard's key; the one
   that does is started here, fresh, and holds no input, no input key and no database.
2. It gets what is to be scored by digest, reads objects from the store itself, and says the report
   in JSON. An error that people may read comes back as the same error.
3. It dies with the worker that started it, and when its release of the key ends: its kernel ends it
   then (SIGALRM, whatever it is at), and so does the worker.
"""

import ctypes
import datetime as dt
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from registry.pipeline.drift import compared
from registry.pipeline.release import RELEASE_ENDED
from registry.settings import Settings, read_settings
from registry.storage.key_encryption import facility_keys
from registry.storage.opening import open_store
from registry.storage.store import ObjectStore
from registry.trust import errors
from registry.trust.canonical import sha256_bytes
from registry.trust.errors import Tampered, TouchstoneError, Unavailable
from validators.comparators.predecessor_evidence import CertifiedVersion

_PR_SET_PDEATHSIG = 1
_PASSED_ON = ("TOUCHSTONE_KEY_ENCRYPTION", "TOUCHSTONE_KMS_", "TOUCHSTONE_PKCS11_")


class File(NamedTuple):
    """A file of predictions: where it lies, and what it must be."""

    path: str
    digest: str


class Certified(BaseModel):
    """The certified version to compare with: `predictions` is None, and `not_compared` says why,
    where it can't be. `submission` is that of its run."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: CertifiedVersion
    submission: str
    predictions: File | None
    protocol: str
    not_compared: str


class Task(BaseModel):
    """What is scored, against what: places and digests, and no case.

    `further`: files of perturbed runs and of other models, by name. `certified`: the certified
    version of the same model, where there is one. `drift_page`: whether the page
    on single patients is still to be made.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    submission: str
    manifest_path: str
    manifest_digest: str
    predictions: File
    further: dict[str, File] = {}
    certified: Certified | None = None
    declaration: str | None = None
    protocol: str
    protocol_digest: str
    development: bool = False
    drift_page: bool = False
    model_digest: str
    environment: dict[str, Any]
    until: dt.datetime


@dataclass(frozen=True)
class Scored:
    """The report as bytes, its page, the verdict in it, what holds it for review, and the page on
    drift, which shows single patients and is for the facility's people alone."""

    report: bytes
    page: bytes
    verdict: str
    held: tuple[str, ...]
    drift_page: bytes | None


def score_apart(settings: Settings, task: Task) -> Scored:
    """Score in a fresh process. Raises what it raised, Unavailable where it died."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("TOUCHSTONE_", "MLFLOW_")) or key.startswith(_PASSED_ON)
    } | (settings.s3.environment() if settings.s3 else {})
    environment["TOUCHSTONE_HOME"] = str(settings.home)
    if settings.key_encryption:
        environment["TOUCHSTONE_KEY_ENCRYPTION"] = settings.key_encryption
    try:
        done = subprocess.run(
            [sys.executable, "-m", "registry.pipeline.scoring"],
            input=task.model_dump_json().encode(),
            env=environment,
            stdout=subprocess.PIPE,
            check=False,
            timeout=max(0.0, _seconds_to(task.until)),
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(RELEASE_ENDED, code="release_ended") from None
    if done.returncode == -signal.SIGALRM:
        raise Unavailable(RELEASE_ENDED, code="release_ended")
    if done.returncode != 0:
        raise Unavailable(f"the process that scores ended with {done.returncode}; see the log")
    answer = json.loads(done.stdout)
    if "error" in answer:
        kind = getattr(errors, answer["error"], TouchstoneError)
        raise kind(answer["message"], code=answer["code"])
    drift = answer["drift_page"]
    return Scored(
        answer["report"].encode(), answer["page"].encode(), answer["verdict"],
        tuple(answer["held"]), None if drift is None else drift.encode(),
    )  # fmt: skip


def score(settings: Settings, task: Task) -> dict[str, Any]:
    """Join predictions and reference standard, evaluate, and build the report."""
    from registry.pipeline.predicted_masks import segmentation_table
    from registry.pipeline.predictions import case_table
    from registry.submissions.declarations import declaration_in
    from validators.cohort.manifest import parse_manifest
    from validators.cohort.stream import read_reference
    from validators.comparators.predecessor import against_certified
    from validators.evaluate import evaluate
    from validators.evidence import Digests, Environment, PredecessorEvidence
    from validators.leakage.evidence import held_reasons
    from validators.metrics.measure import Cases
    from validators.protocol.read import parse_protocol
    from validators.report.build import (
        build_report,
        code_digest,
        environment_digest,
        report_bytes,
    )
    from validators.report.html import report_html

    store, protocol = open_store(settings), parse_protocol(json.loads(task.protocol))
    asked = protocol.for_development() if task.development else protocol
    manifest = parse_manifest(_named(store, File(task.manifest_path, task.manifest_digest)))
    further = {name: _named(store, file) for name, file in task.further.items()}
    declaration = declaration_in(store, task.declaration)
    key = facility_keys(settings, manifest).reference()
    reference = read_reference(manifest, store, key)

    def table_of(submission: str, file: File, others: dict[str, bytes]) -> Cases:
        data = _named(store, file)
        if asked.task == "segmentation":
            return segmentation_table(store, submission, data, reference, asked, manifest, key)
        return case_table(data, reference, asked, manifest, others)

    table = table_of(task.submission, task.predictions, further)
    evaluation = evaluate(table, asked)
    predecessor = None
    if task.certified is not None:
        predecessor = PredecessorEvidence(
            certified=task.certified.version, not_compared=task.certified.not_compared
        )
        if task.certified.predictions is not None:
            predecessor = against_certified(
                table,
                table_of(task.certified.submission, task.certified.predictions, {}),
                asked,
                parse_protocol(json.loads(task.certified.protocol)),
                task.certified.version,
                evaluation.endpoints,
            )
    drift, page = compared(protocol, declaration, reference, page=task.drift_page)
    environment = Environment.model_validate(task.environment)
    report = build_report(
        evaluation,
        protocol,
        Digests(
            model=task.model_digest,
            protocol=task.protocol_digest,
            cohort_root=manifest.root,
            predictions=task.predictions.digest,
            code=code_digest(),
            environment=environment_digest(environment),
        ),
        environment,
        manifest.citation,
        drift=drift,
        predecessor=predecessor,
    )
    return {
        "report": report_bytes(report).decode(),
        "page": report_html(report),
        "verdict": report.verdict.overall,
        "held": held_reasons(report.leakage),
        "drift_page": None if page is None else page.decode(),
    }


def end_at(moment: dt.datetime) -> None:
    """Have this process killed by its kernel then; Unavailable where the moment has passed."""
    seconds = _seconds_to(moment)
    if seconds <= 0:
        raise Unavailable(RELEASE_ENDED, code="release_ended")
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _seconds_to(moment: dt.datetime) -> float:
    return (moment - dt.datetime.now(dt.UTC)).total_seconds()


def _named(store: ObjectStore, file: File) -> bytes:
    data = store.get(file.path)
    if sha256_bytes(data) != file.digest:
        raise Tampered(f"{file.path} is not what the record names")
    return data


def main() -> None:
    """What the fresh process does: a task on stdin, an answer on stdout."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    task = Task.model_validate_json(sys.stdin.buffer.read())
    try:
        end_at(task.until)
        answer = score(read_settings(), task)
    except TouchstoneError as error:
        answer = {"error": type(error).__name__, "message": error.message, "code": error.code}
    sys.stdout.buffer.write(json.dumps(answer).encode())


if __name__ == "__main__":
    main()
