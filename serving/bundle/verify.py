"""Whether a bundle is what two assessors signed, checked offline and in order.

    result = verify(Path("nodules-3"), load_certificate(root), datetime.now(UTC))
    for step in result.steps: print(step.ok, step.name, step.sentence)
    result.raise_if_failed()

Rules
-----
1. The one thing that is trusted is the root that the hospital pinned. Signatures come first:
   nothing else in the bundle is listed, hashed or parsed before they hold.
2. The first step that fails ends it; its `code` says which check it was.
3. A file is read once. What is parsed, loaded and served later are the bytes that were hashed.
4. The golden replay needs the [hospital] extra and Linux. Where it can't run, the bundle is not
   verified, unless the caller said to leave it out; then the result says that it was left out.

Codes of failures beside those of `registry.trust` (other_root, leaf_expired, bad_signature,
one_signer, own_model, not_enrolled, enrolments_malformed, certificate_expired) and
`serving.bundle.files` (link, hidden_file, file_extra, file_missing, ...): root_invalid,
certificate_malformed, file_changed, model_mismatch, protocol_mismatch, report_mismatch,
golden_mismatch, golden_malformed, golden_unavailable.
"""

import datetime as dt
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cryptography import x509

from registry.trust.canonical import sha256_bytes
from registry.trust.certificate import Certificate
from registry.trust.errors import Tampered, TouchstoneError, Unavailable
from serving.bundle.envelope import (
    check_enrolled,
    check_root,
    read_envelope,
    signed_certificate,
)
from serving.bundle.files import list_files, read_and_hash
from serving.bundle.layout import (
    GOLDEN_EXPECTED,
    GOLDEN_INPUTS,
    MODEL_PREFIX,
    UNSIGNED,
    check_subjects,
    model_names,
)
from serving.bundle.statements import Stated, check_statements
from serving.bundle.status_step import LEFT_OUT, StatusAsked
from validators.contract.schema import Contract

if TYPE_CHECKING:
    from serving.sandbox import Sandbox

SandboxFactory = Callable[[], AbstractContextManager["Sandbox"]]
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
    *,
    replay: bool = True,
    keep: bool = False,
    status: StatusAsked | None = None,
    sandbox_factory: SandboxFactory | None = None,
    on_progress: Progress = lambda done, total: None,
) -> VerifyResult:
    """Check the bundle in `directory` under the pinned `root` at the time `at`.

    replay: load the model in a sandbox and replay the golden vectors; False leaves that out.
    keep: keep the verified bytes in the result, to be used later.
    status: where the facility's status is; None leaves out whether it is still in force.
    sandbox_factory: what starts the sandbox; by default `Sandbox.start`.
    on_progress: told (bytes hashed, bytes in all) while files are hashed.
    Never raises for anything that is wrong with the bundle: see the result.
    """
    checks = _Checks(
        directory, root, at, keep=keep or replay, status=status, on_progress=on_progress
    )
    golden = _replayed(checks, sandbox_factory) if replay else _left_out
    steps: list[Step] = []
    error: TouchstoneError | None = None
    for name, check in (*checks.in_order(), ("golden vectors", golden)):
        try:
            outcome, sentence = check()
        except TouchstoneError as found:
            steps.append(Step(name, "failed", found.message, found.code))
            error = found
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
    )


Found = tuple[Outcome, str]


class _Checks:
    """The steps but the last, in order, each building on what the ones before it found."""

    def __init__(
        self,
        directory: Path,
        root: x509.Certificate,
        at: dt.datetime,
        *,
        keep: bool,
        status: StatusAsked | None,
        on_progress: Progress,
    ) -> None:
        self.directory, self.root, self.at = directory, root, at
        self.keep, self.status, self.on_progress = keep, status, on_progress
        self.demo_root = False
        self.certificate: Certificate | None = None
        self.leaves: list[x509.Certificate] = []
        self.statement: str | None = None
        self.stated: Stated | None = None
        self.files: dict[str, bytes] = {}

    def in_order(self) -> tuple[tuple[str, Callable[[], Found]], ...]:
        return (
            ("pinned root", self.pinned_root),
            ("status", self.fresh_status),
            ("signatures", self.signatures),
            ("enrolment", self.enrolment),
            ("standing", self.standing),
            ("audit log", self.audit_log),
            ("in force", self.in_force),
            ("file set", self.file_set),
            ("digests", self.digests),
            ("statements", self.statements),
        )

    def pinned_root(self) -> Found:
        self.demo_root = check_root(self.root, self.at)
        if self.demo_root:
            return "warning", "DEMO ROOT: NOT FOR PATIENTS. Made by a demo for itself"
        return "ok", f"the root {self.root.subject.rfc4514_string()} is the one that was pinned"

    def fresh_status(self) -> Found:
        return LEFT_OUT if self.status is None else self.status.fresh(self.at)

    def signatures(self) -> Found:
        envelope, leaves, payload = read_envelope(self.directory)
        self.statement = sha256_bytes(payload)
        self.certificate = signed_certificate(envelope, leaves, self.root, self.at)
        self.leaves = leaves
        people = " and ".join(f"{person} ({org})" for person, org in self.certificate.signers)
        return "ok", f"signed by {people}, under the pinned root"

    def enrolment(self) -> Found:
        return "ok", check_enrolled(self.directory, self.leaves, self.root)

    def standing(self) -> Found:
        assert self.statement is not None
        return LEFT_OUT if self.status is None else self.status.in_force(self.statement, self.at)

    def audit_log(self) -> Found:
        log = self._certificate().log  # its signature was checked with the others
        return "ok", (
            f"the facility's log {log.origin} stood at {log.size} events when the verdict was "
            "reached, signed under the pinned root"
        )

    def in_force(self) -> Found:
        predicate = self._predicate()
        check_subjects(self._certificate().subjects)
        text = f"in force until {predicate.not_after:%Y-%m-%d}"
        if predicate.overall == "conditional":
            due = f"due on {predicate.conditions_due:%Y-%m-%d}"
            return "warning", f"{text}, on conditions {due}: {'; '.join(predicate.conditions)}"
        return "ok", text

    def file_set(self) -> Found:
        subjects = self._certificate().subjects
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
            digest, data = read_and_hash(self.directory, path, keep=keep, on_bytes=hashed)
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
        predicate = self._predicate()
        return "ok", (
            f"{predicate.model.organisation}/{predicate.model.name} {predicate.model.version}: "
            f"verdict {predicate.overall} on {predicate.cohort.id} {predicate.cohort.version} by "
            f"{predicate.protocol.id} {predicate.protocol.version}; model, protocol, contract and "
            "report agree with the certificate"
        )

    def _certificate(self) -> Certificate:
        assert self.certificate is not None
        return self.certificate

    def _predicate(self) -> Any:
        return self._certificate().predicate


def _left_out() -> Found:
    return "skipped", "not replayed, as asked: this machine's numbers were not checked"


def _replayed(checks: _Checks, sandbox_factory: SandboxFactory | None) -> Callable[[], Found]:
    def check() -> Found:
        stated, certificate = checks.stated, checks.certificate
        assert stated is not None
        assert certificate is not None
        try:
            from serving.bundle.golden import replay

            if sandbox_factory is None:
                from serving.sandbox.process import Sandbox
            start = sandbox_factory or Sandbox.start
        except ImportError as error:
            raise Unavailable(
                f"the golden vectors can't be replayed here ({error.name or 'a part'} is missing): "
                "install touchstone-tef[hospital] on Linux, or leave the replay out knowingly "
                "with --skip-golden",
                code="golden_unavailable",
            ) from error
        with start() as sandbox:
            files = checks.files
            sandbox.load({name: files[path] for name, path in model_names(files).items()})
            tolerance = certificate.predicate.golden_tolerance
            result = replay(sandbox, files, stated.contract, tolerance)
        return "ok", (
            f"{result.cases} made-up cases in {result.calls} calls, at most "
            f"{result.largest_difference:.2g} from the facility's scores ({tolerance:.2g} allowed)"
        )

    return check
