"""Real evidence for tests of the report: made-up cases, the true evaluation."""

from typing import Any

import numpy as np

from validators.cases import CaseTable
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
    return build_report(evaluation, rules, digests, environment, attribution)
