"""What the facility would do with a model file, done at home on a look-alike cohort.

    >>> found = rehearse(Path("model.onnx"), protocol, make_look_alike(protocol), Path("out"))
    >>> found.would_run
    False
    >>> found.stages[-1].code
    'input_shape'

Rules
-----
1. The same functions as in `pipeline.steps` do the same things in the same order: the file, the
   inspection, `decide`, `answered`, `repeat`, the runs under perturbation (`rehearsed_runs`). So
   what is refused there is refused here.
2. The cases are made up: so here, and nowhere else, a failed case is named and the runtime's own
   words are shown (`serving.sandbox.explaining`).
3. A host without a full sandbox is no reason to stop: it is the maker's own model. It is said.
4. Nothing is sent anywhere, and no server is asked.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from registry.pipeline.rehearsed_masks import mask_columns
from registry.pipeline.rehearsed_runs import PerturbedRun, drops_of, perturbed_runs
from registry.trust.canonical import digest_of
from registry.trust.errors import Refused, TouchstoneError
from registry.trust.model_files import model_digest
from serving.answering import Answers
from serving.client import Repeatability, Restarts, answered, predictions_of, repeat
from serving.masks import repeat_masks
from serving.sandbox.explaining import ExplainingSandbox
from validators.assess import assess, write_files
from validators.cohort.look_alike import NOTE, Columns, LookAlike
from validators.cohort.look_alike_folder import table_text
from validators.cohort.shard import Shard
from validators.contract.schema import Contract
from validators.evidence import Report
from validators.intake import decide, files_from_directory
from validators.protocol.schema import Protocol

SHOWN_CASES = 20
Outcome = Literal["fine", "refused", "failed", "not done"]


@dataclass(frozen=True)
class Stage:
    """One thing the facility does. `message` is what it would answer."""

    name: str
    outcome: Outcome
    code: str = ""
    message: str = ""


@dataclass
class Rehearsal:
    """All that was found; `would_run` says whether the facility would come to a verdict."""

    stages: list[Stage] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    model: str | None = None
    description: dict[str, Any] | None = None
    sandbox: dict[str, int | bool | str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    cases: int = 0
    failed_by_code: dict[str, int] = field(default_factory=dict)
    failed_cases: list[dict[str, str]] = field(default_factory=list)
    reasons: list[dict[str, str | int]] = field(default_factory=list)
    restarts: int = 0
    seconds_a_case: float | None = None
    repeatability: dict[str, int | float | bool] | None = None
    perturbed: list[dict[str, Any]] = field(default_factory=list)
    drops: list[dict[str, Any]] = field(default_factory=list)
    verdict: str | None = None
    rules: list[dict[str, Any]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    made_up: bool = True
    note: str = NOTE

    @property
    def would_run(self) -> bool:
        """Whether no stage before the verdict went wrong."""
        wrong = any(stage.outcome in ("refused", "failed") for stage in self.stages)
        return not wrong and any(stage.name == "run" for stage in self.stages)

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"would_run": self.would_run} | asdict(self)


class _Timed:
    """The shards of a cohort; `seconds` is how long they took to make, which is not the model's."""

    def __init__(self, cohort: LookAlike) -> None:
        self._cohort = cohort
        self.seconds = 0.0

    def shards(self) -> Iterator[Shard]:
        made = self._cohort.shards()
        while True:
            started = time.monotonic()
            shard = next(made, None)
            self.seconds += time.monotonic() - started
            if shard is None:
                return
            yield shard


def rehearse(
    model: Path, protocol: Protocol, cohort: LookAlike, out: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Rehearsal:  # fmt: skip
    """Take a model (a directory as MLflow writes it, or one .onnx file) through all stages.

    Writes `predictions.csv`, `report.json` and `report.html` into `out` when it comes so far.
    Raises Refused where no sandbox can be started at all, Unavailable where it does not come up.
    """
    if sys.platform != "linux":
        raise Refused(
            "models are run in a sandbox of Linux: use a Linux machine, container or WSL 2"
        )
    if protocol.contract is None:
        raise Refused("the protocol has no contract, so no model can be run by it")
    found = Rehearsal()
    try:
        _take_in(found, model, protocol.contract)
    except TouchstoneError as error:
        _stopped(found, "intake", error)
        return found
    files = files_from_directory(model)
    reasons: Counter[tuple[str, str]] = Counter()
    runs: list[PerturbedRun] = []
    with ExplainingSandbox.start(allow_unsandboxed=True) as sandbox:
        _tell_level(found, sandbox, protocol)
        try:
            answers = _run(found, sandbox, files, protocol, cohort, on_progress)
        except TouchstoneError as error:
            _stopped(found, "run", error)
            return found
        finally:
            _keep_reasons(found, reasons, sandbox.reasons)
    if found.would_run:
        total = found.cases * (1 + len(protocol.perturbations))
        for run in perturbed_runs(
            files, protocol, protocol.contract, cohort, _bound_to(found, protocol),
            lambda done: on_progress(found.cases + done, total),
        ):  # fmt: skip
            runs.append(run)
            _keep_run(found, run)
            _keep_reasons(found, reasons, run.reasons)
    _assess(found, protocol, cohort, answers, runs, out)
    return found


def _take_in(found: Rehearsal, model: Path, contract: Contract) -> None:
    files = files_from_directory(model)
    found.model = model_digest(files)
    with ExplainingSandbox.start(allow_unsandboxed=True) as sandbox:
        description = sandbox.inspect(files)
    found.description = description.model_dump(mode="json", exclude={"weights"})
    decide(description, contract)
    found.stages.append(Stage("intake", "fine", message="the file would be taken"))


def _tell_level(found: Rehearsal, sandbox: ExplainingSandbox, protocol: Protocol) -> None:
    found.sandbox, found.versions = dict(sandbox.level), dict(sandbox.versions)
    abi = int(sandbox.level.get("landlock_abi", 0))
    if not sandbox.level.get("seccomp"):
        found.warnings.append(
            "this machine has no seccomp, so the model ran without the facility's sandbox: an "
            "operator or library that needs a system call may still be stopped there"
        )
    if abi == 0:
        found.warnings.append("this machine has no Landlock; the facility's may have")
    if abi < protocol.minimum_landlock_abi:
        found.warnings.append(
            f"the protocol asks for Landlock ABI {protocol.minimum_landlock_abi}, this machine "
            f"offers {abi}"
        )


def _run(
    found: Rehearsal, sandbox: ExplainingSandbox, files: dict[str, bytes], protocol: Protocol,
    cohort: LookAlike, on_progress: Callable[[int, int], None],
) -> list[Answers]:  # fmt: skip
    contract = protocol.contract
    assert contract is not None
    total = len(cohort.columns["case"]) * (1 + len(protocol.perturbations))
    seed = digest_of(_bound_to(found, protocol))
    sandbox.load(files)
    made = _Timed(cohort)
    restarts, started = Restarts(), time.monotonic()
    answers: list[Answers] = []
    for of in answered([sandbox], made.shards(), contract, restarts, order_seed=seed):
        answers.append(of)
        found.cases += len(of.cases)
        on_progress(found.cases, total)
    seconds = time.monotonic() - started
    failed_cases = [
        {"case": case, "code": code}
        for of in answers
        for case, code in zip(of.cases, of.failures, strict=True)
        if code
    ]
    found.failed_by_code = dict(sorted(Counter(one["code"] for one in failed_cases).items()))
    found.restarts = restarts.given
    found.seconds_a_case = max(0.0, seconds - made.seconds) / max(1, found.cases)
    found.failed_cases = failed_cases[:SHOWN_CASES]
    failed = sum(found.failed_by_code.values())
    found.stages.append(
        Stage("run", "fine", message=f"{found.cases - failed} of {found.cases} cases answered")
    )
    again = _repeat(sandbox, protocol, contract, cohort, answers, seed)
    found.repeatability = asdict(again)
    found.stages.append(
        Stage("repeat", "fine", message=f"{again.compared} cases came out alike, one by one")
        if again.agrees
        else Stage(
            "repeat",
            "refused",
            "not_repeatable",
            f"the model is not repeatable: {again.decisions_changed} of {again.compared} decisions "
            f"changed, and {_what(contract)} by up to {again.largest_difference:.3g} (allowed: "
            f"{contract.tolerance:g}) when the same cases came one by one in another order",
        )
    )
    return answers


def _what(contract: Contract) -> str:
    return "scores moved" if contract.reference is None else "masks differ"


def _repeat(
    sandbox: ExplainingSandbox, protocol: Protocol, contract: Contract, cohort: LookAlike,
    answers: list[Answers], seed: str,
) -> Repeatability:  # fmt: skip
    cases = protocol.repeatability.cases
    if contract.reference is not None:
        return repeat_masks(
            sandbox, cohort.shards(), contract, answers, cohort.columns["case"],
            order_seed=seed, cases=cases,
        )  # fmt: skip
    return repeat(
        sandbox, cohort.shards(), contract, predictions_of(answers),
        threshold=protocol.threshold or 0.0, cases=cases, order_seed=seed,
    )  # fmt: skip


def _bound_to(found: Rehearsal, protocol: Protocol) -> list[str | None]:
    """What order and perturbations are drawn from, in place of a cohort's root the contract."""
    return [found.model, protocol.digest, protocol.contract.digest if protocol.contract else None]


def _keep_run(found: Rehearsal, run: PerturbedRun) -> None:
    kept = {"name": run.name, "answered": run.answered, "collapsed": run.collapsed}
    found.perturbed.append(kept)
    said = f"{run.answered} of {found.cases} cases answered"
    if run.collapsed:
        said += "; the facility counts every case of this run as failed"
    found.stages.append(Stage(f"run/{run.name}", "fine", run.collapsed or "", said))


def _keep_reasons(
    found: Rehearsal, known: Counter[tuple[str, str]], more: Counter[tuple[str, str]]
) -> None:
    known.update(more)
    found.reasons = [
        {"code": code, "text": text, "times": times} for (code, text), times in known.most_common()
    ]


def _assess(
    found: Rehearsal, protocol: Protocol, cohort: LookAlike, answers: list[Answers],
    runs: list[PerturbedRun], out: Path,
) -> None:  # fmt: skip
    table = out / "predictions.csv"
    try:
        columns = _columns(protocol, cohort, answers, runs, out)
        write_files(out, {table.name: table_text(columns).encode()})
        report = assess(table, protocol, out, {}, warning=NOTE)
    except TouchstoneError as error:
        few = error.code == "too_few_cases"
        message = error.message
        if few:
            message += "; here: make more cases with --cases"
        found.stages.append(Stage("assess", "not done" if few else "failed", error.code, message))
        return
    _keep_verdict(found, report)
    found.files = [str(out / name) for name in ("predictions.csv", "report.json", "report.html")]


def _columns(
    protocol: Protocol, cohort: LookAlike, answers: list[Answers], runs: list[PerturbedRun],
    out: Path,
) -> Columns:  # fmt: skip
    contract = protocol.contract
    if contract is not None and contract.reference is not None:
        return mask_columns(cohort, contract, protocol, answers, out)
    pairs = [pair for of in answers for pair in zip(of.values, of.failures, strict=True)]
    columns = cohort.columns | {
        "score": ["" if code else repr(float(score)) for score, code in pairs],
        "failure": [code or "" for _, code in pairs],
    }
    return columns | {run.name: run.scores for run in runs}


def _keep_verdict(found: Rehearsal, report: Report) -> None:
    found.verdict = report.verdict.overall
    found.drops = drops_of(report)
    found.rules = [rule.model_dump(mode="json") for rule in report.verdict.rules]
    found.stages.append(Stage("assess", "fine", message="a verdict was computed; it means nothing"))


def _stopped(found: Rehearsal, name: str, error: TouchstoneError) -> None:
    """The stage that ends the rehearsal. What is no fault of the model's goes up."""
    if error.status >= 500:
        raise error
    found.stages.append(Stage(name, "refused", error.code, error.message))
