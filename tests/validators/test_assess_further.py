"""The example protocol with every further question, from a table on disk to the report."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.trust.errors import Invalid
from validators.assess import assess
from validators.protocol.read import read_protocol

EXAMPLE = Path(__file__).parents[2] / "docs/examples/reader-study.yaml"


def rows(n: int = 1200, *, hospitals: int = 6) -> list[dict[str, Any]]:
    """Women with one mammogram each; the model and the readers see the same hidden signal."""
    rng = np.random.default_rng(17)
    positive = rng.random(n) < 0.4
    signal = rng.normal(size=n) + 2.0 * positive
    # Calibrated at .6 % of cancers: log odds of the signal, moved to the prevalence.
    score = 1 / (1 + np.exp(-(2.0 * signal - 2.0 + np.log(0.4 / 0.6))))
    found = []
    for i in range(n):
        row: dict[str, Any] = {
            "case": f"c{i}", "patient": f"p{i}", "reference": int(positive[i]),
            "score": f"{score[i]:.6f}", "site": f"h{i % hospitals}",
            "age_band": ["50-59", "60-69"][i % 2], "weight": 1,
            "current_model": f"{np.clip(score[i] + rng.normal(0, 0.05), 0, 1):.6f}",
            "noise_2_image": f"{np.clip(score[i] + rng.normal(0, 0.01), 0, 1):.6f}",
            "compression_3_image": "" if i < 5 else f"{score[i]:.6f}",
        }  # fmt: skip
        for reader in range(1, 6):
            seen = signal[i] + rng.normal(0, 1.0) + 0.1 * reader
            row[f"reader_{reader}"] = int(np.clip(np.round(seen + 1.5), 1, 5))
        found.append(row)
    return found


def written(path: Path, table: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, table[0])
        writer.writeheader()
        writer.writerows(table)
    return path


def test_every_further_question_is_answered_and_stands_in_the_report(tmp_path: Path) -> None:
    protocol = read_protocol(EXAMPLE)
    report = assess(written(tmp_path / "t.csv", rows()), protocol, tmp_path / "out", {})
    outcomes = {rule.id: rule.outcome for rule in report.verdict.rules}
    assert outcomes["endpoint:auc"] == "pass"
    assert outcomes["endpoint:auc against readers"] == "pass"
    assert outcomes["endpoint:auc against current_model"] == "pass"
    assert outcomes["sites:auc"] in ("pass", "insufficient_evidence")
    assert outcomes["robustness:noise_2_image:auc"] == "pass"
    assert outcomes["robustness:compression_3_image:auc"] in ("pass", "insufficient_evidence")
    assert "indeterminate_share" in outcomes
    assert report.robustness[1].failed == 5
    assert report.sites[0].across is not None
    assert report.sites[0].across.sites == 6
    assert report.leakage is not None
    assert report.sampling.startswith("enriched; ")
    stored = json.loads((tmp_path / "out/report.json").read_text())
    assert stored["case_flow"]["indeterminate"] > 0
    assert "NaN" not in (tmp_path / "out/report.json").read_text()


def test_a_column_that_the_question_needs_is_asked_for_by_name(tmp_path: Path) -> None:
    protocol = read_protocol(EXAMPLE)
    table = [{k: v for k, v in row.items() if k != "reader_4"} for row in rows(100)]
    with pytest.raises(Invalid, match="no column 'reader_4'") as raised:
        assess(written(tmp_path / "t.csv", table), protocol, tmp_path / "out", {})
    assert "\n" not in raised.value.message


def test_a_run_that_was_not_made_blocks_and_is_named(tmp_path: Path) -> None:
    protocol = read_protocol(EXAMPLE)
    table = [{k: v for k, v in row.items() if k != "noise_2_image"} for row in rows()]
    report = assess(written(tmp_path / "t.csv", table), protocol, tmp_path / "out", {})
    assert "robustness:noise_2_image:auc" in report.verdict.reason
    assert report.verdict.overall != "pass"


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("weight", "0", "sampling weights are no finite number above 0"),
        ("weight", "-1", "lies outside"),
        ("reader_2", "four", "not a finite number in 1 rows"),
        ("current_model", "3.4", "lies outside 0 to 1 in 1 rows"),
    ],
)
def test_rubbish_in_a_further_column_is_said_in_one_line(
    tmp_path: Path, column: str, value: str, words: str
) -> None:
    table = rows(100)
    table[3][column] = value
    with pytest.raises(Invalid, match=words) as raised:
        assess(written(tmp_path / "t.csv", table), read_protocol(EXAMPLE), tmp_path / "out", {})
    assert "\n" not in raised.value.message


def test_a_case_that_one_reader_did_not_read_leaves_the_comparison_open(tmp_path: Path) -> None:
    table = rows()
    table[7]["reader_3"] = ""
    report = assess(
        written(tmp_path / "t.csv", table), read_protocol(EXAMPLE), tmp_path / "out", {}
    )
    found = {rule.id: rule for rule in report.verdict.rules}["endpoint:auc against readers"]
    assert found.outcome == "insufficient_evidence"
    assert "1 of 1200 cases were not read by every reader" in found.reason
