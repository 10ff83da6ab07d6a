"""What lifelines and scikit-survival find for two cohorts; run it to make `survival_values.json`.

python3 -m venv /tmp/survival && /tmp/survival/bin/pip install lifelines==0.30.3 \
    scikit-survival==0.28.0
/tmp/survival/bin/python tests/validators/survival_values.py

The first cohort is the German Breast Cancer Study Group 2 (Schumacher et al. 1994; 686 women, as
lifelines ships it), here as ranks of the time, events, and the log partial hazard of a Cox model
on all covariates, rounded to three digits. The second is made, with neither equal times nor
equal risks, because the two packages treat censorings at the time of an event differently.
scikit-survival (GPL-3) was run for its numbers only; none of its code is here.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).with_suffix(".json")


def gbsg2() -> dict[str, Any]:
    """Harrell's C by lifelines, and the Kaplan-Meier curve at five ranks."""
    from lifelines import CoxPHFitter, KaplanMeierFitter  # type: ignore[import-not-found]
    from lifelines.datasets import load_gbsg2  # type: ignore[import-not-found]
    from lifelines.utils import concordance_index  # type: ignore[import-not-found]

    data = load_gbsg2()
    data["tgrade"] = data.tgrade.map({"I": 1, "II": 2, "III": 3})
    data["horTh"], data["menostat"] = data.horTh == "yes", data.menostat == "Post"
    data = data.astype(float)
    fitted = CoxPHFitter().fit(data, "time", "cens")
    risk = np.round(np.log(fitted.predict_partial_hazard(data).to_numpy()), 3)
    rank = np.unique(data.time, return_inverse=True)[1] + 1
    event = data.cens.astype(int).to_numpy()
    curve = KaplanMeierFitter().fit(rank, event)
    at = [50, 150, 250, 350, 500]
    return {
        "time": rank.tolist(), "event": event.tolist(), "risk": risk.tolist(),
        "of_the_model": float(fitted.concordance_index_),
        "harrell_c": float(concordance_index(rank, -risk, event)),
        "survival_at": at, "survival": [float(curve.predict(time)) for time in at],
    }  # fmt: skip


def tied() -> list[dict[str, Any]]:
    """Harrell's C by lifelines where times and risks are often equal."""
    from lifelines.utils import concordance_index

    found = []
    for seed, (times, risks) in enumerate([(5, 3), (10, 4), (3, 30)]):
        rng = np.random.default_rng([2026, seed])
        time, event = rng.integers(1, times + 1, 60), rng.random(60) < 0.6
        risk = rng.integers(0, risks, 60)
        found.append({
            "time": time.tolist(), "event": event.astype(int).tolist(), "risk": risk.tolist(),
            "harrell_c": float(concordance_index(time, -risk, event)),
        })  # fmt: skip
    return found


def made() -> dict[str, Any]:
    """Uno's C, cumulative/dynamic AUC, Brier scores and their mean by scikit-survival."""
    from sksurv import metrics  # type: ignore[import-not-found]
    from sksurv.util import Surv  # type: ignore[import-not-found]

    rng = np.random.default_rng(2026)
    linear = rng.normal(size=150)
    hazard = 0.03 * np.exp(linear)
    until, came = rng.uniform(5, 60, 150), rng.exponential(1 / hazard)
    time, event = np.round(np.minimum(until, came), 6), came <= until
    risk = np.round(linear + rng.normal(size=150), 6)
    assert len(set(time.tolist())) == len(set(risk.tolist())) == 150
    horizons = [6.0, 12.0, 24.0, 36.0]
    probability = np.round(
        np.stack([1 - np.exp(-0.03 * np.exp(0.5 * risk) * at) for at in horizons], axis=1), 4
    )
    outcome = Surv.from_arrays(event, time)
    brier = metrics.brier_score(outcome, outcome, 1 - probability, horizons)[1]
    return {
        "time": time.tolist(), "event": event.astype(int).tolist(), "risk": risk.tolist(),
        "horizons": horizons, "probability": probability.T.tolist(),
        "until": [20.0, 50.0],
        "uno_c": [
            float(metrics.concordance_index_ipcw(outcome, outcome, risk, tau=tau)[0])
            for tau in (20.0, 50.0)
        ],
        "harrell_c": float(metrics.concordance_index_censored(event, time, risk)[0]),
        "auc": metrics.cumulative_dynamic_auc(outcome, outcome, risk, horizons)[0].tolist(),
        "brier": brier.tolist(),
        "integrated_brier": float(
            metrics.integrated_brier_score(outcome, outcome, 1 - probability, horizons)
        ),
    }  # fmt: skip


if __name__ == "__main__":
    HERE.write_text(json.dumps({"gbsg2": gbsg2(), "tied": tied(), "made": made()}) + "\n")
