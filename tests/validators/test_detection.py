"""Detection: picai-eval's values, and that withheld scans never help."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import average_precision_score

from registry.trust.errors import Invalid
from tests.validators.picai_values import HERE, RATES, Scan, cohorts
from validators.intervals.bootstrap import draws
from validators.metrics import detection
from validators.metrics.detection_table import DetectionTable
from validators.metrics.figure import Figure
from validators.metrics.matching import mask_overlap, match_candidates
from validators.metrics.measure import Side, Undefined
from validators.protocol.tasks import DetectionSettings

PICAI: dict[str, Any] = json.loads(HERE.read_text())["found"]
MAPS = cohorts()
RULES = DetectionSettings(false_positives_per_scan=1.0, threshold=0.5, maximum_candidates=10)
GATING = [name for name, of in detection.MEASURES.items() if of.gates]


def _table(
    seed: int, scans: int = 60, patients: int = 40, failed: int = 0, steps: int = 1000
) -> DetectionTable:
    """Scans with 0 to 3 lesions, of which most are found; scores are multiples of 1 / steps."""
    rng = np.random.default_rng(seed)
    lesion_scan = np.repeat(np.arange(scans), rng.integers(0, 4, scans))
    found = np.flatnonzero(rng.random(len(lesion_scan)) < 0.8)
    false_scan = np.repeat(np.arange(scans), rng.integers(0, 4, scans))
    score = np.append(rng.beta(4, 2, len(found)), rng.beta(2, 3, len(false_scan)))
    table = DetectionTable(
        failed=np.zeros(scans, bool),
        lesion_scan=lesion_scan,
        candidate_scan=np.append(lesion_scan[found], false_scan),
        score=np.round(score * steps) / steps,
        hit=np.append(found, np.full(len(false_scan), -1)),
        patient=rng.integers(0, patients, scans),
    )
    return _withheld(table, rng.permutation(scans)[:failed])


def _withheld(table: DetectionTable, lost: Any) -> DetectionTable:
    failed = table.failed.copy()
    failed[lost] = True
    kept = ~failed[table.candidate_scan]
    return replace(
        table, failed=failed, candidate_scan=table.candidate_scan[kept], score=table.score[kept],
        hit=table.hit[kept],
    )  # fmt: skip


def _side(table: DetectionTable, metric: str, rules: DetectionSettings = RULES) -> Side:
    found = detection.side(table, metric, rules)
    assert not isinstance(found, Undefined), found.reason
    return found


def _value(table: DetectionTable, metric: str, rules: DetectionSettings = RULES) -> float:
    found = detection.side(table, metric, rules)
    assert found.value is not None
    return found.value


def _at_rate(rate: float) -> DetectionSettings:
    return RULES.model_copy(update={"false_positives_per_scan": rate, "maximum_candidates": 50})


def _of_results(scans: list[list[tuple[int, float]]]) -> DetectionTable:
    """A table of picai-eval's lists: (1, score of a hit or 0) or (0, score of a false positive)."""
    rows = [(at, *of) for at, scan in enumerate(scans) for of in scan]
    lesions = [row for row in rows if row[1]]
    candidates = [row for row in rows if row[2] > 0]
    position = {id(row): at for at, row in enumerate(lesions)}
    return DetectionTable(
        failed=np.zeros(len(scans), bool),
        lesion_scan=np.array([row[0] for row in lesions], dtype=np.int64),
        candidate_scan=np.array([row[0] for row in candidates], dtype=np.int64),
        score=np.array([row[2] for row in candidates]),
        hit=np.array([position.get(id(row), -1) for row in candidates], dtype=np.int64),
    )


def _of_maps(scans: list[Scan]) -> DetectionTable:
    """The same by our matching of the maps themselves."""
    rule = RULES.model_copy(update={"minimum_overlap": 0.1})
    lesion_scan, candidate_scan, score, hit = [], [], [], []
    for at, (lesion_map, score_map) in enumerate(scans):
        lesions, candidates = _parts(lesion_map), _parts(score_map)
        scores = np.array([score_map[mask].max() for mask in candidates], dtype=np.float64)
        found = match_candidates(mask_overlap(candidates, lesions), scores, rule)
        hit += np.where(found >= 0, found + len(lesion_scan), -1).tolist()
        lesion_scan += [at] * len(lesions)
        candidate_scan += [at] * len(candidates)
        score += scores.tolist()
    return DetectionTable(
        failed=np.zeros(len(scans), bool), lesion_scan=np.array(lesion_scan),
        candidate_scan=np.array(candidate_scan), score=np.array(score), hit=np.array(hit),
    )  # fmt: skip


def _parts(of: NDArray[Any]) -> list[NDArray[np.bool_]]:
    labels, count = ndimage.label(of, structure=np.ones((3, 3, 3)))
    return [labels == label for label in range(1, count + 1)]


@pytest.mark.parametrize("name", PICAI)
def test_average_precision_and_froc_are_those_of_picai_eval(name: str) -> None:
    tables = [_of_results(PICAI[name]["scans"])]
    if not name.startswith("split"):  # no candidates compete, so matching by score is the same
        tables.append(_of_maps(MAPS[name]))
    for table in tables:
        found = _value(table, "average_precision", _at_rate(1))
        assert found == pytest.approx(PICAI[name]["average_precision"], abs=1e-9)
        sensitivities = [_value(table, "lesion_sensitivity_at_rate", _at_rate(of)) for of in RATES]
        assert sensitivities == pytest.approx(PICAI[name]["sensitivities"], abs=1e-6)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_of_a_lesion_hit_twice_the_best_score_counts(seed: int) -> None:
    name = f"split {seed}"
    ours, theirs = _of_maps(MAPS[name]), _of_results(PICAI[name]["scans"])
    assert (ours.hit >= 0).sum() > (theirs.hit >= 0).sum()  # duplicates
    assert (ours.hit < 0).sum() == (theirs.hit < 0).sum()  # are no false positives
    found, wanted = (np.maximum(of.best_scores(), 0) for of in (ours, theirs))
    assert (found > 0).sum() == (wanted > 0).sum()
    assert found.sum() >= wanted.sum()


def test_where_every_lesion_is_hit_average_precision_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(5)
    right = rng.random(300) < 0.4
    score = np.round(np.clip(rng.normal(0.4 + 0.2 * right, 0.2), 0, 1), 2)
    scan = rng.integers(0, 60, 300)
    hit = np.where(right, np.cumsum(right) - 1, -1)
    table = DetectionTable(
        failed=np.zeros(60, bool), lesion_scan=scan[right], candidate_scan=scan, score=score,
        hit=hit,
    )  # fmt: skip
    rules = RULES.model_copy(update={"maximum_candidates": 300})
    wanted = average_precision_score(right, score)
    assert _value(table, "average_precision", rules) == pytest.approx(wanted)


def test_values_counted_by_hand() -> None:
    # Scan 0: two lesions, one hit at .9 and repeated at .6; a false positive at .7.
    # Scan 1: one lesion hit at .4; false positives at .8 and .3. Scan 2: failed, one lesion.
    table = DetectionTable(
        failed=np.array([False, False, True]),
        lesion_scan=np.array([0, 0, 1, 2]),
        candidate_scan=np.array([0, 0, 0, 1, 1, 1]),
        score=np.array([0.9, 0.6, 0.7, 0.4, 0.8, 0.3]),
        hit=np.array([0, 0, -1, 2, -1, -1]),
    )
    rules = RULES.model_copy(update={"maximum_candidates": 3})
    assert _value(table, "lesion_sensitivity", rules) == 1 / 4
    assert _value(table, "false_positives_per_scan", rules) == (1 + 1 + 3) / 3
    # In order: 3 false at 1; a hit at .9; false at .8 and .7; a hit at .4.
    assert _value(table, "average_precision", rules) == pytest.approx((1 / 4 + 2 / 7) / 4)
    for rate, wanted in ((0.9, 0.0), (1.0, 1 / 4), (1.6, 1 / 4), (1.7, 2 / 4)):
        asked = rules.model_copy(update={"false_positives_per_scan": rate})
        assert _value(table, "lesion_sensitivity_at_rate", asked) == wanted
    best = {
        name: detection.side(table, name, rules, failed_is_right=True).value
        for name in detection.MEASURES
    }
    assert best["lesion_sensitivity"] == 2 / 4
    assert best["false_positives_per_scan"] == 2 / 3
    assert best["average_precision"] == pytest.approx((1 + 1 + 3 / 5) / 4)


@examples(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 80), st.integers(0, 2), st.sampled_from([5, 1000]))
def test_a_withheld_scan_never_helps(seed: int, patients: int, failed: int, steps: int) -> None:
    table = _table(seed, 90, patients, failed, steps)
    false = np.bincount(table.candidate_scan[table.hit < 0], minlength=table.n)
    for lost in (int(np.argmax(np.where(table.failed, -1, false))), seed % table.n):
        fewer = _withheld(table, lost)
        for name in detection.MEASURES:
            before, after = (detection.side(of, name, RULES) for of in (table, fewer))
            assert type(before) is type(after)
            if isinstance(before, Undefined) or isinstance(after, Undefined):
                continue
            (low, high), (low_now, high_now) = before.gating(0.025), after.gating(0.025)
            if detection.MEASURES[name].direction == "higher":
                assert low_now <= low + 1e-12
                assert after.value <= before.value + 1e-12
            else:
                assert high_now >= high - 1e-12
                assert after.value >= before.value - 1e-12


@pytest.mark.parametrize("metric", ["average_precision", "lesion_sensitivity_at_rate"])
@pytest.mark.parametrize("seed", range(4))
def test_a_withheld_scan_is_the_worst_in_every_replicate(metric: str, seed: int) -> None:
    table = _table(seed, steps=8)
    fewer = _withheld(table, seed)
    drawn = next(draws(np.zeros(int(table.cluster.max()) + 1, dtype=np.int64), 500))
    before, after = (_statistic(of, metric)(drawn) for of in (table, fewer))
    assert (after <= before + 1e-12).all()
    assert (after < before).any()


def _statistic(
    table: DetectionTable, metric: str
) -> Callable[[NDArray[np.int64]], NDArray[np.float64]]:
    return detection.statistic_of(detection.ranking_of(table, RULES), metric, RULES)


@pytest.mark.parametrize("metric", ["average_precision", "lesion_sensitivity_at_rate"])
def test_a_patient_drawn_twice_counts_as_two(metric: str) -> None:
    table = _table(4, 30, 12, failed=2)
    weights = np.random.default_rng(4).integers(0, 4, int(table.cluster.max()) + 1)
    copies = [table.subset(weights[table.cluster] > copy) for copy in range(3)]
    offsets = np.cumsum([0, *(of.n for of in copies)])
    lesions = np.cumsum([0, *(len(of.lesion_scan) for of in copies)])
    joined = DetectionTable(
        failed=np.concatenate([of.failed for of in copies]),
        lesion_scan=np.concatenate(
            [of.lesion_scan + at for of, at in zip(copies, offsets, strict=False)]
        ),
        candidate_scan=np.concatenate(
            [of.candidate_scan + at for of, at in zip(copies, offsets, strict=False)]
        ),
        score=np.concatenate([of.score for of in copies]),
        hit=np.concatenate(
            [np.where(of.hit < 0, -1, of.hit + at) for of, at in zip(copies, lesions, strict=False)]
        ),
    )
    weighted = _statistic(table, metric)(weights[None])[0]
    assert weighted == pytest.approx(_value(joined, metric))


@examples(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 80), st.integers(0, 3))
def test_intervals_hold_the_value_within_the_scale(seed: int, patients: int, failed: int) -> None:
    table = _table(seed, 50, patients, failed, steps=10)
    for name, measure in detection.measures(RULES).items():
        found = detection.side(table, name, RULES)
        if isinstance(found, Undefined):
            assert "too few to draw from" in found.reason
            assert found.value is not None
            continue
        low, high = found.gating(0.025)
        assert measure.low is not None
        assert measure.high is not None
        assert measure.low <= low <= found.value <= high <= measure.high
        assert low < high


@examples(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_order_and_monotone_scores_do_not_matter(seed: int) -> None:
    table = _table(seed, scans=120)
    rng = np.random.default_rng(seed)
    rows, lesions = rng.permutation(len(table.score)), rng.permutation(len(table.lesion_scan))
    place = np.append(np.argsort(lesions), -1)
    other = replace(
        table, lesion_scan=table.lesion_scan[lesions], candidate_scan=table.candidate_scan[rows],
        score=table.score[rows], hit=place[table.hit[rows]],
    )  # fmt: skip
    for name in detection.MEASURES:
        assert _side(other, name).gating(0.025) == pytest.approx(_side(table, name).gating(0.025))
    bent = replace(table, score=table.score**3 / 2)
    for name in ("average_precision", "lesion_sensitivity_at_rate"):
        assert _side(bent, name).gating(0.025) == pytest.approx(_side(table, name).gating(0.025))


def test_all_tied_scores_are_one_operating_point() -> None:
    table = replace(_table(2), score=np.full(len(_table(2).score), 0.7))
    hits, false = (table.best_scores() >= 0).sum(), (table.hit < 0).sum()
    found = hits / len(table.lesion_scan)
    assert _value(table, "average_precision") == pytest.approx(found * hits / (hits + false))
    rate = false / table.n
    assert _value(table, "lesion_sensitivity_at_rate", _at_rate(rate)) == pytest.approx(found)
    assert _value(table, "lesion_sensitivity_at_rate", _at_rate(rate - 0.01)) == 0.0


def test_perfect_and_silent_models() -> None:
    scans = 100
    lesion = np.arange(scans)
    perfect = DetectionTable(
        failed=np.zeros(scans, bool), lesion_scan=lesion, candidate_scan=lesion,
        score=np.full(scans, 0.9), hit=lesion,
    )  # fmt: skip
    nothing = np.zeros(0, dtype=np.int64)
    silent = replace(perfect, candidate_scan=nothing, score=np.zeros(0), hit=nothing)
    for name, measure in detection.MEASURES.items():
        found = _side(perfect, name)
        low, high = found.gating(0.025)
        assert found.value == measure.ideal
        assert high - low > 0.03
        assert _value(silent, name) == 0.0


def test_without_lesions_only_false_positives_have_a_value() -> None:
    table = _table(1)
    healthy = table.subset(np.bincount(table.lesion_scan, minlength=table.n) == 0)
    for name in detection.MEASURES:
        found = detection.side(healthy, name, RULES)
        if name == "false_positives_per_scan":
            assert not isinstance(found, Undefined)
        else:
            assert isinstance(found, Undefined)
            assert found.reason == "none of the scans has a lesion"
    assert detection.figures(healthy, RULES) == ()


def test_too_many_candidates_are_no_prediction() -> None:
    with pytest.raises(Invalid, match="more than 1 candidates"):
        detection.side(
            _table(1), "lesion_sensitivity", RULES.model_copy(update={"maximum_candidates": 1})
        )


def test_the_figure_is_the_curve_with_its_band() -> None:
    table = _table(6, failed=3)
    (drawn,) = detection.figures(table, RULES)
    assert isinstance(drawn, Figure)
    curve, point = drawn.series
    assert len(curve.points) == len(curve.low) == len(curve.high) == 41
    sensitivity = [of[1] for of in curve.points]
    assert sensitivity == sorted(sensitivity)
    for value, low, high in zip(sensitivity, curve.low, curve.high, strict=True):
        assert 0 <= low <= high <= 1
        assert low - 0.1 <= value <= high + 0.1
    at = [x for x, _ in curve.points].index(1.0)
    assert sensitivity[at] == _value(table, "lesion_sensitivity_at_rate")
    assert point.points == (
        (_value(table, "false_positives_per_scan"), _value(table, "lesion_sensitivity")),
    )
    few = table.subset(np.arange(table.n) < 10)
    (without_band,) = detection.figures(few, RULES)
    assert isinstance(without_band, Figure)
    assert without_band.series[0].low == ()


def test_two_thousand_scans_take_no_longer_than_five_seconds() -> None:
    table = _table(1, scans=2000, patients=2000)
    for name in ("average_precision", "lesion_sensitivity_at_rate"):
        start = time.perf_counter()
        _side(table, name)
        assert time.perf_counter() - start < 5
