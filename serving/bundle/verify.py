"""Whether a bundle is what two assessors signed, checked offline and in order.

    result = verify(Path("nodules-3"), load_certificate(root), datetime.now(UTC))
    for step in result.steps: print(step.ok, step.name, step.sentence)
    result.raise_if_failed()

Rules
-----
1. What is trusted is the root that the hospital pinned, and what the hospital says in `Policy`.
   Signatures come first: nothing else in the bundle is listed, hashed or parsed before they hold.
2. The first step that fails ends it; its `code` says which check it was, and `bundle.exits` gives
   the code an exit status.
3. A file is read once. What is parsed, loaded and served later are the bytes that were hashed.
   So a model that is to be replayed or served is held in memory, once; one that is only verified
   is hashed block by block. A file that is mapped or read again could be changed under us.
4. The golden replay needs the [hospital] extra and Linux. Where it can't run, the bundle is not
   verified, unless the caller said to leave it out; then the result says that it was left out.
"""

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cryptography import x509

from registry.trust.canonical import sha256_bytes
from registry.trust.certificate import Certificate, Predicate, check_in_force
from registry.trust.errors import Invalid, Tampered, TouchstoneError
from registry.trust.keys import parse_certificate
from registry.trust.log_key import check_log_certificate
from registry.trust.model_files import MAXIMUM_BYTES
from serving.bundle.envelope import (
    check_enrolled,
    check_root,
    read_envelope,
    signed_certificate,
)
from serving.bundle.files import LARGEST_DOCUMENT, list_files, read_and_hash
from serving.bundle.judged import acknowledged_use, verdict_again
from serving.bundle.layout import (
    GOLDEN_EXPECTED,
    GOLDEN_INPUTS,
    MODEL_PREFIX,
    UNSIGNED,
    check_subjects,
    model_names,
)
from serving.bundle.logged import Logged, check_history, read_logged
from serving.bundle.policy import Policy
from serving.bundle.replayed import SandboxFactory, replayed
from serving.bundle.statements import Stated, check_statements
from serving.bundle.status_step import LEFT_OUT, StatusAsked
from validators.contract.schema import Contract

Progress = Callable[[int, int], None]
"""(bytes hashed, bytes in all)."""
Outcome = Literal["ok", "warning", "skipped", "failed"]


@dataclass(frozen=True)
class Step:
    """One check: its name, whether the bundle passed it, and a sentence for people."""

    name: str
    outcome: Outcome
    sentence: str
    code: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the bundle may still be used."""
        return self.outcome != "failed"


@dataclass(frozen=True)
class VerifyResult:
    """Every step that was made, and, of a verified bundle alone, what was found in it."""

    directory: Path
    steps: tuple[Step, ...]
    error: TouchstoneError | None = None
    certificate: Certificate | None = None
    statement: str | None = None
    """The digest of the signed statement: what names the certificate."""
    contract: Contract | None = None
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """The bytes that were hashed, by path, if they were asked to be kept."""
    demo_root: bool = False
    checkpoint: bytes | None = None
    """The newest state of the facility's log that was shown, to be remembered."""

    @property
    def ok(self) -> bool:
        """Whether every step passed."""
        return self.error is None

    def raise_if_failed(self) -> None:
        """Raise the failed step's error."""
        if self.error is not None:
            raise self.error

    def model_files(self) -> dict[str, bytes]:
        """The model's verified bytes by file name."""
        return {name: self.files[path] for name, path in model_names(self.files).items()}

    def as_json(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        value: dict[str, Any] = {
            "ok": self.ok,
            "directory": str(self.directory),
            "code": None if self.error is None else self.error.code,
            "steps": [
                {"name": s.name, "ok": s.ok, "outcome": s.outcome, "code": s.code,
                 "sentence": s.sentence}
                for s in self.steps
            ],
            "certificate": None,
        }  # fmt: skip
        if self.ok and self.certificate is not None:
            predicate = self.certificate.predicate.model_dump(mode="json")
            value["certificate"] = {
                "digest": self.statement,
                "demo_root": self.demo_root,
                "signers": [list(signer) for signer in self.certificate.signers],
                "predicate": predicate,
            }
        return value


def verify(
    directory: Path,
    root: x509.Certificate,
    at: dt.datetime,
    policy: Policy = Policy(),  # noqa: B008 - frozen
    *,
    replay: bool = True,
    keep: bool = False,
    status: StatusAsked | None = None,
    sandbox_factory: SandboxFactory | None = None,
    on_progress: Progress = lambda done, total: None,
) -> VerifyResult:
    """Check the bundle in `directory` under the pinned `root` at the time `at`.

    policy: what the hospital decides itself; by default the careful way, which refuses a use that
    nobody acknowledged.
    replay: load the model in a sandbox and replay the golden vectors; False leaves that out.
    keep: keep the verified bytes in the result, to be used later.
    status: where the facility's status is; None leaves out whether it is still in force.
    sandbox_factory: what starts the sandbox; left out, `Sandbox.start` with limits of its size.
    on_progress: told (bytes hashed, bytes in all) while files are hashed.
    Never raises for anything that is wrong with the bundle: see the result.
    """
    checks = _Checks(
        directory,
        root,
        at,
        policy,
        keep=keep or replay,
        status=status,
        on_progress=on_progress,
    )
    golden = _replayed(checks, sandbox_factory) if replay else _left_out
    steps: list[Step] = []
    error: TouchstoneError | None = None
    for name, check in (*checks.in_order(), ("golden vectors", golden)):
        try:
            outcome, sentence = check()
        except TouchstoneError as found:
            error = found
        except OSError as found:  # a bad stick, or a file that goes away under us
            error = Invalid(
                f"{directory} can't be read ({found.strerror}), or changes while it is checked",
                code="unreadable",
            )
        if error is not None:
            steps.append(Step(name, "failed", error.message, error.code))
            break
        steps.append(Step(name, outcome, sentence))
    if error is not None:
        return VerifyResult(directory, tuple(steps), error)
    assert checks.stated is not None
    return VerifyResult(
        directory=directory,
        steps=tuple(steps),
        certificate=checks.certificate,
        statement=checks.statement,
        contract=checks.stated.contract,
        files=checks.files if keep else {},
        demo_root=checks.demo_root,
        checkpoint=checks.checkpoint,
    )


Found = tuple[Outcome, str]


class _Checks:
    """The steps but the last, in order, each building on what the ones before it found."""

    def __init__(
        self,
        directory: Path,
        root: x509.Certificate,
        at: dt.datetime,
        policy: Policy,
        *,
        keep: bool,
        status: StatusAsked | None,
        on_progress: Progress,
    ) -> None:
        self.directory, self.root, self.at, self.policy = directory, root, at, policy
        self.keep, self.status, self.on_progress = keep, status, on_progress
        self.demo_root = False
        self.certificate: Certificate | None = None
        self.leaves: list[x509.Certificate] = []
        self.statement: str | None = None
        self.logged: Logged | None = None
        self.checkpoint: bytes | None = None
        self.stated: Stated | None = None
        self.files: dict[str, bytes] = {}

    def in_order(self) -> tuple[tuple[str, Callable[[], Found]], ...]:
        return (
            ("pinned root", self.pinned_root),
            ("status", self.fresh_status),
            ("signatures", self.signatures),
            ("enrolment", self.enrolment),
            ("standing", self.standing),
            ("file set", self.file_set),
            ("digests", self.digests),
            ("in force", self.in_force),
            ("verdict", self.verdict),
            ("statements", self.statements),
            ("intended use", self.intended_use),
            ("audit log", self.audit_log),
        )

    def pinned_root(self) -> Found:
        self.demo_root = check_root(self.root, self.at, allow_demo=self.policy.allow_demo)
        if self.demo_root:
            return "warning", "DEMO ROOT: NOT FOR PATIENTS. Made by a demo for itself"
        return "ok", f"the root {self.root.subject.rfc4514_string()} is the one that was pinned"

    def fresh_status(self) -> Found:
        return LEFT_OUT if self.status is None else self.status.fresh(self.at)

    def signatures(self) -> Found:
        envelope, leaves, payload = read_envelope(self.directory)
        self.statement = sha256_bytes(payload)
        self.logged = read_logged(self.directory, self.statement, self.root, self.policy, self.at)
        self.certificate = signed_certificate(envelope, leaves, self.root, self.logged.at)
        self.leaves = leaves
        people = " and ".join(f"{person} ({org})" for person, org in self.certificate.signers)
        return "ok", (
            f"signed by {people} with two keys under the pinned root, which were valid when it was "
            f"logged on {self.logged.at:%Y-%m-%d}"
        )

    def enrolment(self) -> Found:
        return "ok", check_enrolled(self.directory, self.leaves, self.root)

    def standing(self) -> Found:
        assert self.statement is not None
        return LEFT_OUT if self.status is None else self.status.in_force(self.statement, self.at)

    def in_force(self) -> Found:
        predicate = self._predicate()
        check_in_force(predicate, self.at)
        text = f"in force until {predicate.not_after:%Y-%m-%d}"
        if predicate.overall == "conditional":
            due = f"due on {predicate.conditions_due:%Y-%m-%d}"
            return "warning", f"{text}, on conditions {due}: {'; '.join(predicate.conditions)}"
        return "ok", text

    def file_set(self) -> Found:
        subjects = self._certificate().subjects
        check_subjects(subjects)
        list_files(self.directory, {*subjects, *UNSIGNED})
        return "ok", f"exactly the {len(subjects)} files that were signed over, and no link"

    def digests(self) -> Found:
        subjects = self._certificate().subjects
        total = sum((self.directory / path).lstat().st_size for path in subjects)
        done = 0

        def hashed(size: int) -> None:
            nonlocal done
            done += size
            self.on_progress(done, total)

        for path in sorted(subjects, key=lambda path: (path.startswith(MODEL_PREFIX), path)):
            large = path.startswith(MODEL_PREFIX) or path in (GOLDEN_INPUTS, GOLDEN_EXPECTED)
            keep = self.keep or not large
            most = MAXIMUM_BYTES if large else LARGEST_DOCUMENT
            digest, data = read_and_hash(self.directory, path, most, keep=keep, on_bytes=hashed)
            if digest != subjects[path]:
                raise Tampered(
                    f"{path} is not the file that was signed over: pull the bundle again",
                    code="file_changed",
                )
            if data is not None:
                self.files[path] = data
        return "ok", "every file has the digest that was signed"

    def statements(self) -> Found:
        self.stated = check_statements(self._certificate(), self.files)
        of = self._predicate()
        return "ok", (
            f"{of.model.organisation}/{of.model.name} {of.model.version} on {of.cohort.id} "
            f"{of.cohort.version} ({of.cohort.cases or 'too few to be counted'} cases) by "
            f"{of.protocol.id} {of.protocol.version}: model, protocol, contract and report agree "
            "with the certificate"
        )

    def audit_log(self) -> Found:
        assert self.logged is not None
        log = self._predicate().log
        certificate = parse_certificate(log.certificate.encode())
        _, key = check_log_certificate(certificate, self.root, self.at)
        sentence, newest = check_history(self.logged, self._certificate().log, self.policy, key)
        self.checkpoint = newest.note
        return "ok", sentence

    def verdict(self) -> Found:
        return verdict_again(self._predicate())

    def intended_use(self) -> Found:
        return acknowledged_use(self._predicate(), self.policy)

    def _certificate(self) -> Certificate:
        assert self.certificate is not None
        return self.certificate

    def _predicate(self) -> Predicate:
        return self._certificate().predicate


def _left_out() -> Found:
    return "skipped", "not replayed, as asked: this machine's numbers were not checked"


def _replayed(checks: _Checks, sandbox_factory: SandboxFactory | None) -> Callable[[], Found]:
    def check() -> Found:
        assert checks.stated is not None
        assert checks.certificate is not None
        predicate = checks.certificate.predicate
        contract = checks.stated.contract
        return "ok", replayed(checks.files, contract, predicate.golden_tolerance, sandbox_factory)

    return check
