"""Every task type from a table to a report, by the protocols in docs/examples."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from registry.trust.errors import Invalid
from validators.assess import assess
from validators.evidence import Report
from validators.protocol.read import parse_protocol, read_protocol
from validators.report.schema import report_schema

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
Rows = list[dict[str, Any]]
Random = np.random.Generator


def segmentation(rng: Random, quality: float, failed: int) -> Rows:
    """120 patients, two scans each."""
    rows = []
    for case in range(240):
        dice = float(np.clip(rng.normal(quality, 0.04), 0, 1))
        values = {"dice_gland": dice, "nsd_gland": dice, "hd95_gland": 5 * (1.2 - dice),
                  "volume_error_gland": float(rng.normal(0, 0.05))}  # fmt: skip
        rows.append({"case": case, "patient": case // 2, "scanner": f"s{case // 2 % 2}", **values})
        if case < failed:
            rows[-1] |= dict.fromkeys(values, "") | {"failure": "timeout"}
    return rows


def detection(rng: Random, quality: float, failed: int) -> Rows:
    """150 scans of 100 patients, two lesions each."""
    rows: Rows = []
    for scan in range(150):
        named = {"case": scan, "patient": scan * 2 // 3}
        code = "timeout" if scan < failed else ""
        rows.append({**named, "kind": "scan", "failure": code, "slice_thickness": "thin"})
        for lesion in ("a", "b"):
            rows.append({**named, "kind": "lesion", "lesion": lesion})
            if not code and rng.random() < quality:
                rows.append({**named, "kind": "candidate", "score": 0.9, "hit": lesion})
        if not code and rng.random() < 0.5:
            score = round(float(rng.random()), 3)
            rows.append({**named, "kind": "candidate", "score": score, "hit": ""})
    return rows


def time_to_event(rng: Random, quality: float, failed: int) -> Rows:
    """400 women; the hazard follows a score that the model sees with noise."""
    rows: Rows = []
    for case in range(400):
        truth = float(rng.normal())
        event = float(rng.exponential(60 * np.exp(-truth)))
        censored = float(rng.uniform(20, 90))
        risk = quality * truth + (1 - quality) * float(rng.normal())
        chance = float(1 - np.exp(-36 / 60 * np.exp(risk)))
        values = {"risk": risk, "probability_36": min(max(chance, 0.01), 0.99)}
        rows.append({"case": case, "time": max(0.1, min(event, censored)),
                     "event": int(event <= censored), "grade": f"g{case % 2}",
                     **values})  # fmt: skip
        if case < failed:
            rows[-1] |= dict.fromkeys(values, "") | {"failure": "timeout"}
    return rows


def ordinal(rng: Random, quality: float, failed: int) -> Rows:
    """150 patients, two lesions each; the model is right with the chance `quality`."""
    names, rows = [f"pirads_{grade}" for grade in (2, 3, 4, 5)], []
    for case in range(300):
        truth = int(rng.integers(4))
        guess = truth if rng.random() < quality else int(rng.integers(4))
        chances = np.full(4, 0.1)
        chances[guess] = 0.7
        scores = {f"score_{name}": float(c) for name, c in zip(names, chances, strict=True)}
        rows.append({"case": case, "patient": case // 2, "reference": names[truth],
                     "scanner": f"s{case // 2 % 2}", **scores})  # fmt: skip
        if case < failed:
            rows[-1] |= dict.fromkeys(scores, "") | {"failure": "timeout"}
    return rows


def regression(rng: Random, quality: float, failed: int) -> Rows:
    """120 patients, two measurements each; `quality` is the spread of the error in ml."""
    rows: Rows = []
    for case in range(240):
        truth = float(np.clip(rng.normal(60, 25), 10, 190))
        prediction = float(np.clip(truth + rng.normal(0, quality), 0, 200))
        rows.append({"case": case, "patient": case // 2, "reference": truth,
                     "scanner": f"s{case // 2 % 2}", "prediction": prediction})  # fmt: skip
        if case < failed:
            rows[-1] |= {"prediction": "", "failure": "timeout"}
    return rows


Make = Callable[[Random, float, int], Rows]
TASKS: dict[str, tuple[Make, float, float]] = {
    "segmentation": (segmentation, 0.92, 0.6),
    "detection": (detection, 0.9, 0.4),
    "time-to-event": (time_to_event, 0.9, 0.0),
    "ordinal": (ordinal, 0.9, 0.2),
    "regression": (regression, 5.0, 60.0),
}


def written(path: Path, rows: Rows) -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, names, restval="")
        table.writeheader()
        table.writerows(rows)
    return path


def scored(name: str, folder: Path, quality: float, failed: int = 0) -> Report:
    rows = TASKS[name][0](np.random.default_rng(5), quality, failed)
    protocol = read_protocol(EXAMPLES / f"{name}.yaml")
    return assess(written(folder / "table.csv", rows), protocol, folder / "out", {})


@pytest.mark.parametrize("name", TASKS)
def test_a_good_model_passes_and_a_poor_one_fails(name: str, tmp_path: Path):
    _, good, poor = TASKS[name]
    assert scored(name, tmp_path, good).verdict.overall == "pass"
    assert scored(name, tmp_path, poor).verdict.overall == "fail"


@pytest.mark.parametrize("name", TASKS)
def test_the_report_follows_its_schema_and_draws_its_figures(name: str, tmp_path: Path):
    report = scored(name, tmp_path, TASKS[name][1], failed=2)
    written_down = json.loads((tmp_path / "out" / "report.json").read_text())
    jsonschema.validate(written_down, report_schema())
    assert "NaN" not in json.dumps(written_down)
    assert report.curves is not None
    assert report.curves.figures
    page = (tmp_path / "out" / "report.html").read_text()
    for figure in report.curves.figures:
        assert f"<title>{figure.title}</title>" in page
    assert not re.search(r"\bnan\b|\binf\b", page)
    assert report.case_flow.failed == 2
    assert report.complete_case
    for found in report.endpoints:
        assert found.positives is None
        assert found.interval is not None
        assert found.interval.low < found.interval.high


@pytest.mark.parametrize("name", TASKS)
def test_withheld_predictions_improve_no_endpoint(name: str, tmp_path: Path):
    order = {"fail": 0, "insufficient_evidence": 1, "not_judged": 1, "pass": 2}
    quality = TASKS[name][1]
    before = {found.metric: found for found in scored(name, tmp_path, quality).endpoints}
    after = scored(name, tmp_path, quality, failed=4).endpoints
    for found in after:
        assert order[found.outcome] <= order[before[found.metric].outcome], found.metric


def test_the_command_says_which_rule_decided(tmp_path: Path):
    rows = segmentation(np.random.default_rng(5), 0.6, 0)
    table = written(tmp_path / "table.csv", rows)
    program = [sys.executable, "-c", "from registry.cli.main import main; main()"]
    words = ["assess", str(table), "--protocol", str(EXAMPLES / "segmentation.yaml"), "--out",
             str(tmp_path / "out")]  # fmt: skip
    said = subprocess.run([*program, *words], capture_output=True, text=True, timeout=120)
    assert "endpoint:dice_gland" in said.stdout, said.stderr
    assert "verdict: fail" in said.stdout
    rows[3]["dice_gland"] = 1.4
    written(table, rows)
    refused = subprocess.run([*program, *words], capture_output=True, text=True, timeout=120)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: table.csv: dice_gland")
    assert "1.4" not in refused.stderr


def test_classes_without_an_order_have_no_weighted_kappa():
    import yaml

    body = yaml.safe_load((EXAMPLES / "ordinal.yaml").read_text())
    assert parse_protocol(body).endpoints[0].metric == "quadratic_kappa"
    with pytest.raises(Invalid, match="a multiclass question has no metric 'quadratic_kappa'"):
        parse_protocol(body | {"task": "multiclass"})
