"""How often `judge_drop` is wrong, by simulation, and what perturbing costs beside the run.

    python -m bench.robustness            # about a minute on one core
    python -m bench.robustness --cohorts 200

First table: `passes` is the share of cohorts in which a model passes whose true drop is exactly
the maximum, `fails` that in which it fails; each is a one-sided error, nominal .025. A star: above
it by more than three standard errors of the simulation. `power` is the share that passes when
nothing is lost but what is gained elsewhere (a true drop of 0).

Second table: cases a second of perturbing alone, and beside a run through the sandbox of a small
network; `run` is the time of a perturbed run over that of a bare one, medians of paired rounds.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import special

from bench.coverage import SKEWED, Random, chances, patients_of
from bench.sandbox import network
from serving.client import predict
from serving.sandbox import Sandbox
from validators.cases import CaseTable
from validators.cohort.shard import Shard
from validators.contract.schema import Contract
from validators.robustness.drop import Metric, judge_drop
from validators.robustness.perturb import perturbed
from validators.robustness.severity import SEVERITIES, Perturbation

ALPHA = 0.025
MOST = 0.1
THROUGHPUT_CASES = 512
ROUNDS = 3
Pair = tuple[CaseTable, CaseTable]
Draw = Callable[[Random, float], Pair]


def decisions(patients: int, sizes: tuple[int, ...], alike: float, gained: float) -> Draw:
    """Positives of which a share is lost, another gained; losses go together in a patient."""

    def draw(rng: Random, drop: float) -> Pair:
        code = patients_of(rng, patients, sizes)
        loses = chances(rng, patients, alike, (drop + gained) / 0.8)[code]
        before = rng.random(len(code)) < 0.8
        u = rng.random(len(code))
        after = np.where(before, u >= loses, u < gained / 0.2)
        return _table(before, code), _table(after, code)

    return draw


def _table(right: NDArray[np.bool_], code: NDArray[np.int64]) -> CaseTable:
    """All cases but one are positive: the metric is the sensitivity."""
    return CaseTable(
        reference=np.append(np.ones(len(right)), 0),
        score=np.append(np.where(right, 0.9, 0.1), 0.1),
        patient=np.append(code, 0),
    )


def scores(patients: int, images: int, alike: float, same: float, auc: float) -> Draw:
    """Binormal scores before and after, correlated `same` in a case and `alike` in a patient."""

    def draw(rng: Random, drop: float) -> Pair:
        code = np.repeat(np.arange(patients), images)
        positive = rng.random(len(code)) < 0.5
        positive[:2] = (True, False)
        shared = _noise(rng, code, alike)
        pair = []
        for area in (auc, auc - drop):
            noise = math.sqrt(same) * shared + math.sqrt(1 - same) * _noise(rng, code, alike)
            shift = math.sqrt(2) * float(special.ndtri(area)) * positive
            pair.append(CaseTable(positive.astype(np.int8), special.ndtr(noise + shift), code))
        return pair[0], pair[1]

    return draw


def _noise(rng: Random, code: NDArray[np.int64], alike: float) -> NDArray[np.float64]:
    of_patient = rng.normal(size=int(code.max()) + 1)[code]
    return np.asarray(math.sqrt(alike) * of_patient + math.sqrt(1 - alike) * rng.normal(
        size=len(code)))  # fmt: skip


def collapse(patients: int, auc: float) -> Draw:
    """A few positives fall to the very bottom, the rest does not move: the drop's mean is right."""

    def draw(rng: Random, drop: float) -> Pair:
        positive = np.arange(2 * patients) < patients
        shift = math.sqrt(2) * float(special.ndtri(auc))
        score = special.ndtr(rng.normal(size=2 * patients) + shift * positive)
        falls = positive & (rng.random(2 * patients) < drop / auc)
        code = np.arange(2 * patients)
        reference = positive.astype(np.int8)
        return CaseTable(reference, score, code), CaseTable(
            reference, np.where(falls, 0.0, score), code
        )

    return draw


def errors(console: Console, title: str, metric: Metric,
           conditions: list[tuple[str, float, Draw]], cohorts: int) -> None:  # fmt: skip
    """Simulate each condition at the maximum and at no drop, and print the table."""
    table = Table(title=title, title_justify="left")
    for name in ("condition", "maximum", "passes", "fails", "power", "width"):
        table.add_column(name, justify="left" if name == "condition" else "right")
    limit = ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / cohorts)
    for position, (name, most, draw) in enumerate(conditions):
        rng = np.random.default_rng([2026, position])
        counts = {"pass": 0, "fail": 0, "insufficient_evidence": 0}
        power, widths = 0, []
        for _ in range(cohorts):
            for true in (most, 0.0):
                found = judge_drop(
                    *draw(rng, true), metric, threshold=0.5, maximum_drop=most, alpha=ALPHA
                )
                if true:
                    counts[found.outcome] += 1
                    if found.interval is None:
                        raise AssertionError("a drop of a full table has an interval")
                    widths.append(found.interval.high - found.interval.low)
                else:
                    power += found.outcome == "pass"
        shares = [counts[outcome] / cohorts for outcome in ("pass", "fail")]
        cells = [f"{share:.3f}{'*' if share > limit else ' '}" for share in shares]
        table.add_row(
            name, f"{most:g}", *cells, f"{power / cohorts:.2f}", f"{np.median(widths):.3f}"
        )
    console.print(table)


def throughput(console: Console) -> None:
    """Perturb 64 x 64 images, alone and on their way into the sandbox."""
    contract = Contract.model_validate(
        {
            "id": "bench", "version": "1", "score": "score",
            "inputs": [
                {"name": "image", "dtype": "float32", "shape": [1, 64, 64], "minimum": 0,
                 "maximum": 1},
                {"name": "descriptors", "dtype": "float32", "shape": [8]},
            ],
            "outputs": [{"name": "score", "dtype": "float32", "shape": [1]}],
        }
    )  # fmt: skip
    rng = np.random.default_rng(1)
    shard = Shard(
        0,
        tuple(f"{n:032x}" for n in range(THROUGHPUT_CASES)),
        {
            "image": rng.random((THROUGHPUT_CASES, 1, 64, 64)).astype(np.float32),
            "descriptors": rng.normal(size=(THROUGHPUT_CASES, 8)).astype(np.float32),
        },
    )
    table = Table(title=f"Perturbing images [1, 64, 64], severity 3, {THROUGHPUT_CASES} cases",
                  title_justify="left")  # fmt: skip
    for name in ("modality", "kind", "images/s", "run"):
        table.add_column(name, justify="right" if name in ("images/s", "run") else "left")
    with Sandbox.start() as sandbox:
        sandbox.load({"model.onnx": network(hidden=256, channels=32)})

        def seconds(shards: Any) -> float:
            started = time.perf_counter()
            predict(sandbox, shards, contract, order_seed="bench")
            return time.perf_counter() - started

        seconds([shard])
        for modality, kind in [("MR", kind) for kind in SEVERITIES["MR"]] + [
            ("radiography", "compression")
        ]:
            asked = Perturbation(kind=kind, modality=modality, severity=3, tensor="image")  # type: ignore[arg-type]
            alone, ratios = [], []
            for _ in range(ROUNDS):
                started = time.perf_counter()
                list(perturbed([shard], asked, contract, seed="bench"))
                alone.append(time.perf_counter() - started)
                bare = seconds([shard])
                ratios.append(seconds(perturbed([shard], asked, contract, seed="bench")) / bare)
            table.add_row(
                modality, kind, f"{THROUGHPUT_CASES / statistics.median(alone):,.0f}",
                f"{statistics.median(ratios):.2f}",
            )  # fmt: skip
    console.print(table)


def main() -> None:
    """Print every table."""
    arguments = argparse.ArgumentParser(description=__doc__, add_help=True)
    arguments.add_argument("--cohorts", type=int, default=500)
    cohorts = arguments.parse_args().cohorts
    console = Console(width=100)
    errors(console, "Sensitivity: paired, MOVER over Clopper-Pearson", "sensitivity", [
        (f"{n} positives{', gains .05' if gained else ''}", most, decisions(n, (1,), 0.0, gained))
        for n in (100, 400) for most in (0.05, 0.1) for gained in (0.0, 0.05)
    ] + [
        (f"{k} patients, {'4 each' if sizes == (4,) else '1 to 8'}, correlation {alike:g}", 0.1,
         decisions(k, sizes, alike, 0.02))
        for k in (25, 100) for sizes in ((4,), SKEWED) for alike in (0.4, 1.0)
    ], cohorts)  # fmt: skip
    errors(console, "AUC: paired DeLong or Obuchowski, t, stabilised", "auc", [
        (f"{n} cases, same {same:g}, AUC {auc:g}", most, scores(n, 1, 0.0, same, auc))
        for n in (100, 400) for most in (0.05, 0.1) for same in (0.5, 0.95) for auc in (0.85, 0.95)
    ] + [
        (f"{k} patients of 4, correlation {alike:g}", 0.1, scores(k, 4, alike, 0.5, 0.85))
        for k in (25, 100) for alike in (0.4, 0.8)
    ] + [
        (f"{n} positives, few collapse", most, collapse(n, 0.9))
        for n in (50, 200) for most in (0.02, 0.05, 0.1)
    ], cohorts)  # fmt: skip
    throughput(console)


if __name__ == "__main__":
    main()
