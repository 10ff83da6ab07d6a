"""Real evidence for tests of the report: made-up cases, the true evaluation."""

from typing import Any

import numpy as np

from validators.cases import CaseTable
from validators.drift.evidence import AttributeDrift, DriftCell, DriftEvidence
from validators.evaluate import evaluate
from validators.evidence import Digests, Environment, Report
from validators.protocol.schema import Endpoint, IntendedUse, Protocol, SubgroupRule
from validators.report.build import build_report, code_digest, environment_digest

MODEL, ROOT = "sha256:" + "a" * 64, "sha256:" + "b" * 64
SANDBOX: dict[str, int | bool | str] = {"seccomp": True, "landlock_abi": 6}


def protocol(*, attributes: tuple[str, ...] = ("site", "sex"), **fields: Any) -> Protocol:
    """A protocol with every endpoint, and sensitivity and specificity by each attribute."""
    values: dict[str, Any] = {
        "id": "nodule-triage",
        "version": "1",
        "title": "Triage of nodules",
        "intended_use": IntendedUse(purpose="triage", population="adults", setting="CT"),
        "reference_standard": "median of four readers",
        "threshold": 0.5,
        "endpoints": (
            Endpoint(metric="sensitivity", goal=0.6),
            Endpoint(metric="auc", goal=0.6),
            *(
                Endpoint(metric=metric, role="secondary", rule="reported")
                for metric in ("specificity", "brier", "calibration_slope", "failure_rate")
            ),
        ),
        "subgroups": tuple(
            SubgroupRule(attribute=name, metric=metric, margin=0.2, rule="reported")
            for name in attributes
            for metric in ("sensitivity", "specificity", "auc")
        ),
        "goals_rationale": "chosen on the development half",
    }
    return Protocol.model_validate(values | fields)


def cases(
    n: int = 400, *, failed: int = 0, seed: int = 1, patients: bool = False, **more: Any
) -> CaseTable:
    """A model that is right more often than not; `failed` cases have no prediction."""
    random = np.random.default_rng(seed)
    reference = (random.random(n) < 0.4).astype(np.int8)
    score = 1 / (1 + np.exp(-(2.2 * reference - 1.1 + random.normal(size=n))))
    score[random.choice(n, failed, replace=False)] = np.nan
    return CaseTable(
        reference=reference,
        score=score,
        patient=np.arange(n) // 3 if patients else None,
        attributes={
            "site": random.choice(["head", "trunk", "leg"], n, p=[0.2, 0.5, 0.3]),
            "sex": random.choice(["female", "male"], n),
        }
        | more.pop("attributes", {}),
        failed_by_code={"timeout": failed} if failed else {},
        **more,
    )


def report(
    table: CaseTable | None = None,
    rules: Protocol | None = None,
    *,
    sandbox: dict[str, int | bool | str] | None = None,
    model: str | None = MODEL,
    attribution: str = "Made-up cases",
    drift: DriftEvidence | None = None,
) -> Report:
    """The report of `table` under `rules`."""
    rules = rules or protocol()
    environment = Environment(
        versions={"onnxruntime": "1.31.1"},
        providers=("CPUExecutionProvider",),
        sandbox=SANDBOX if sandbox is None else sandbox,
        repeatability={"compared": 64, "largest_difference": 1.1920929e-07, "decisions_changed": 0},
    )
    digests = Digests(
        model=model,
        protocol=rules.digest,
        cohort_root=ROOT if model else None,
        predictions="sha256:" + "c" * 64,
        code=code_digest(),
        environment=environment_digest(environment),
    )
    evaluation = evaluate(cases() if table is None else table, rules)
    return build_report(evaluation, rules, digests, environment, attribution, drift)


PERTURBATIONS: tuple[dict[str, Any], ...] = (
    {"kind": "noise", "modality": "CT", "severity": 3, "tensor": "image"},
    {"kind": "blur", "modality": "CT", "severity": 2, "tensor": "image"},
)


def asking_everything(**fields: Any) -> Protocol:
    """A protocol that asks every question a binary one may ask."""
    model = {"name": "clinic_model", "kind": "model", "margin": 0.05}
    readers = {"name": "the_readers", "kind": "readers", "margin": 0.05,
               "readers": ("reader_1", "reader_2", "reader_3")}  # fmt: skip
    noise, blur = PERTURBATIONS
    asked: dict[str, Any] = {
        "endpoints": (
            Endpoint(metric="sensitivity", goal=0.6),
            Endpoint(metric="auc", goal=0.6),
            {"metric": "auc", "comparator": model, "role": "secondary", "rule": "reported"},
            {"metric": "auc", "comparator": readers, "role": "secondary", "rule": "reported"},
            Endpoint(metric="specificity", role="secondary", rule="reported"),
            Endpoint(metric="failure_rate", role="secondary", rule="reported"),
        ),
        "subgroups": tuple(
            SubgroupRule(attribute="sex", metric=metric, margin=0.2, rule="reported")
            for metric in ("sensitivity", "specificity", "auc")
        ),
        "sites": {"attribute": "hospital",
                  "metrics": ({"metric": "auc", "floor": 0.55}, {"metric": "sensitivity"})},
        "robustness": (
            {"perturbation": noise, "metric": "sensitivity", "maximum_drop": 0.2},
            {"perturbation": noise, "metric": "auc", "maximum_drop": 0.2, "rule": "reported"},
            {"perturbation": blur, "metric": "auc", "maximum_drop": 0.2, "rule": "reported"},
        ),
        "indeterminate": {"low": 0.45, "high": 0.55, "counts_as": "positive",
                          "maximum_share": 0.3},
        "leakage": {"ceilings": ({"metric": "auc", "value": 0.8},)},
        "sampling": {"design": "enriched", "description": "all positives of two years"},
        "pilot_mode": "assistive",
        "regulatory_references": ("approval by an ethics committee",),
    }  # fmt: skip
    return protocol(**{**asked, **fields})


def cases_for_everything(
    n: int = 900, *, failed: int = 0, failed_perturbed: int = 0, hospitals: int = 6, seed: int = 4
) -> CaseTable:
    """Cases with a second model, three readers, perturbed runs (blur was not made), hospitals."""
    random = np.random.default_rng(seed)
    base = cases(n, failed=failed, seed=seed)
    kept = np.where(np.isnan(base.score), 0.5, base.score)

    def noisy(spread: float) -> np.ndarray[Any, Any]:
        return np.asarray(np.clip(kept + spread * random.normal(size=n), 0, 1))

    perturbed = noisy(0.05)
    perturbed[random.choice(n, failed_perturbed, replace=False)] = np.nan
    further = {
        "clinic_model": noisy(0.2),
        **{f"reader_{i}": np.round(5 * noisy(0.25)) for i in (1, 2, 3)},
        "noise_3_image": perturbed,
    }
    names = np.array([f"hospital {i}" for i in range(hospitals)])
    return cases(
        n, failed=failed, seed=seed, further=further,
        attributes={"hospital": names[random.integers(0, hospitals, n)]},
    )  # fmt: skip


def drifted(cells: tuple[tuple[str, int, int], ...] = (("a", 120, 300), ("b", 80, 600))) -> Any:
    """Drift of one attribute that was found and one that could not be measured."""
    shifted = AttributeDrift(
        attribute="age", declared=200, cohort=900,
        cells=tuple(DriftCell(label=a, declared=d, cohort=c) for a, d, c in cells),
        population_stability_index=0.31, limit=0.1, jensen_shannon_distance=0.2,
        standardized_mean_difference=0.4, shifted=True, reason="",
    )  # fmt: skip
    unknown = AttributeDrift(
        attribute="stage", declared=200, cohort=900, cells=(), population_stability_index=None,
        limit=None, jensen_shannon_distance=None, standardized_mean_difference=None, shifted=None,
        reason="fewer than two cells are left",
    )  # fmt: skip
    return DriftEvidence(
        distribution="sha256:" + "d" * 64, minimum_group=10, alpha=0.025, smallest_index=0.1,
        attributes=(shifted, unknown), absent=("smoking",),
    )  # fmt: skip


def everything(**sizes: Any) -> Report:
    """A report with every part that a report can have."""
    return report(cases_for_everything(**sizes), asking_everything(), drift=drifted())
