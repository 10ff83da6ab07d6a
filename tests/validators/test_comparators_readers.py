"""The model against readers who are a sample: published values, laws, and errors by simulation."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from registry.trust.errors import Invalid
from validators.comparators.figures import figures_of
from validators.comparators.model import judge_comparison
from validators.comparators.readers import ReaderComparison, against_readers, spread_of_mean
from validators.intervals.auc import area
from validators.metrics.measure import Undefined

TAIL = 0.025
METRICS = ("auc", "sensitivity", "specificity")


def study(
    seed: int, cases: int = 60, readers: int = 5, patients: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Reference, model, readers (all with scores in steps, so that there are ties), patients."""
    rng = np.random.default_rng(seed)
    positive = np.arange(cases) % 2 == 0
    hard = rng.normal(size=cases)
    skill = 1.5 + 0.4 * rng.normal(size=readers)
    noise = hard[:, None] + rng.normal(size=(cases, readers + 1))
    score = np.append(1.5, skill) * positive[:, None] + 0.7 * noise
    score = np.round(score * 2) / 2
    patient = None if patients is None else rng.integers(0, patients, cases)
    return positive, score[:, 0], score[:, 1:], patient


def decided(score: np.ndarray) -> np.ndarray:
    return (score > 0.8).astype(float)


def compared(metric: str, seed: int = 1, **sizes: int) -> ReaderComparison:
    positive, model, readers, patient = study(seed, **sizes)
    if metric != "auc":
        model, readers = decided(model), decided(readers)
    found = against_readers(positive, model, readers, patient, metric=metric, tail=TAIL)
    assert isinstance(found, ReaderComparison)
    return found


# Van Dyke's data, 5 readers, 114 cases (RJafrocBook, OR applications, "Random-Reader Random-Case";
# made with RJafroc): readers' empirical AUCs, mean covariance by jackknife, and its results.
@pytest.mark.parametrize(
    ("aucs", "variance", "covariance", "between", "error", "freedom", "interval"),
    [
        ((0.9196, 0.8588, 0.9039, 0.9731, 0.8298), 0.0010141, 0.0004840,
         0.003083, 0.03317, 12.74, (0.8252, 0.9689)),
        ((0.9478, 0.9053, 0.9217, 0.9994, 0.9300), 0.0005905, 0.0002042,
         0.001305, 0.02157, 12.71, (0.8941, 0.9875)),
    ],
)  # fmt: skip
def test_the_mean_of_readers_has_the_published_interval_of_van_dyke_s_data(
    aucs, variance, covariance, between, error, freedom, interval
):
    matrix = np.full((5, 5), covariance) + np.eye(5) * (variance - covariance)
    found = spread_of_mean(np.array(aucs), matrix)
    assert found.between == pytest.approx(between, abs=2e-6)
    assert found.standard_error == pytest.approx(error, abs=1e-5)
    assert found.freedom == pytest.approx(freedom, abs=0.02)  # AUCs were printed to 4 digits
    half = stats.t.ppf(0.975, found.freedom) * found.standard_error
    mean = np.mean(aucs)
    assert (mean - half, mean + half) == pytest.approx(interval, abs=1e-4)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("patients", [None, 25])
def test_values_without_a_patient_are_those_of_counting_again(metric, patients):
    positive, model, readers, patient = study(3, cases=40, patients=patients)
    values = np.column_stack([model, readers])
    values = values if metric == "auc" else decided(values)
    code = np.arange(40) if patient is None else np.unique(patient, return_inverse=True)[1]
    found = figures_of(metric, positive, values, code)
    wanted = {"auc": positive | True, "sensitivity": positive, "specificity": ~positive}[metric]
    for row, k in enumerate(np.unique(code[wanted])):
        kept = code != k
        if metric == "auc":
            again = [area(column[kept], positive[kept]).value for column in values.T]
        else:
            again = (values == (metric == "sensitivity"))[kept & wanted].mean(axis=0)
        assert found.without[row] == pytest.approx(np.asarray(again), abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_it_is_the_analysis_of_variance_of_dorfman_berbaum_and_metz(metric):
    """Pseudovalues of the differences, readers and cases random, with Hillis' 2007 results."""
    positive, model, readers, _ = study(1, cases=60)
    if metric != "auc":
        model, readers = decided(model), decided(readers)
    figures = figures_of(metric, positive, np.column_stack([model, readers]), np.arange(60))
    k, j = len(figures.without), readers.shape[1]
    whole = figures.whole[0] - figures.whole[1:]
    pseudo = k * whole - (k - 1) * (figures.without[:, :1] - figures.without[:, 1:])
    grand, of_case, of_reader = pseudo.mean(), pseudo.mean(axis=1), pseudo.mean(axis=0)
    ms_reader = k * ((of_reader - grand) ** 2).sum() / (j - 1)
    ms_case = j * ((of_case - grand) ** 2).sum() / (k - 1)
    rest = pseudo - of_case[:, None] - of_reader + grand
    ms_rest = (rest**2).sum() / ((j - 1) * (k - 1))
    # Rule 6; above the noise of cases it is the published method.
    assert (ms_reader > ms_rest) == (metric != "specificity")
    ms_reader = max(ms_reader, ms_rest)
    inner = ms_reader + max(ms_case - ms_rest, 0)
    found = compared(metric)
    assert found.spread.standard_error == pytest.approx(math.sqrt(inner / (j * k)), rel=1e-9)
    assert found.spread.freedom == pytest.approx((j - 1) * (inner / ms_reader) ** 2, rel=1e-9)


def test_the_model_as_a_second_treatment_read_by_every_reader_gives_the_same_interval():
    """Obuchowski & Rockette for two treatments, the model's scores repeated for each reader."""
    positive, model, readers, _ = study(1)
    j = readers.shape[1]
    figures = figures_of("auc", positive, np.column_stack([model, readers]), np.arange(60))
    theta = np.stack([np.repeat(figures.whole[0], j), figures.whole[1:]])
    columns = np.column_stack(
        [np.repeat(figures.without[:, :1], j, axis=1), figures.without[:, 1:]]
    )
    of = (59**2 / 60) * np.cov(columns.T)
    apart = ~np.eye(j, dtype=bool)
    same, cross = (
        (of[:j, :j][apart].mean() + of[j:, j:][apart].mean()) / 2,
        of[:j, j:][apart].mean(),
    )
    ms = (theta - theta.mean(1, keepdims=True) - theta.mean(0) + theta.mean()) ** 2
    between = ms.sum() / (j - 1)
    inner = between + j * max(same - cross, 0)
    found = compared("auc").spread
    assert found.standard_error == pytest.approx(math.sqrt(2 * inner / j), rel=1e-9)
    assert found.freedom == pytest.approx((j - 1) * (inner / between) ** 2, rel=1e-9)


def error_of_cases(figures) -> float:
    """The standard error where these readers are all that there are (a bootstrap of cases)."""
    of = figures.without[:, 0] - figures.without[:, 1:].mean(axis=1)
    n = len(of)
    return math.sqrt((n - 1) / n * ((of - of.mean()) ** 2).sum())


def test_readers_as_a_sample_widen_the_interval_beyond_what_cases_alone_give():
    ratios = []
    for seed in range(20):
        positive, model, readers, _ = study(seed, cases=200, readers=4)
        values = np.column_stack([model, readers])
        figures = figures_of("auc", positive, values, np.arange(200))
        spread = compared("auc", seed, cases=200, readers=4).spread
        ratios.append(spread.standard_error / error_of_cases(figures))
    assert min(ratios) > 0.95  # the same where readers happen to agree
    assert np.mean(ratios) > 1.15


@pytest.mark.parametrize("metric", METRICS)
def test_cases_copied_within_patients_tell_nothing_new(metric):
    positive, model, readers, _ = study(2)
    if metric != "auc":
        model, readers = decided(model), decided(readers)
    once = against_readers(positive, model, readers, metric=metric, tail=TAIL)
    twice = against_readers(
        np.tile(positive, 3), np.tile(model, 3), np.tile(readers, (3, 1)),
        np.tile(np.arange(60), 3), metric=metric, tail=TAIL,
    )  # fmt: skip
    assert twice.comparison.difference == pytest.approx(once.comparison.difference)
    assert twice.comparison.interval.low == pytest.approx(once.comparison.interval.low)
    assert twice.comparison.interval.high == pytest.approx(once.comparison.interval.high)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 500),
    metric=st.sampled_from(METRICS),
    patients=st.sampled_from([None, 15]),
    withheld=st.lists(st.integers(0, 29), min_size=1, max_size=6, unique=True),
)
@example(seed=63, metric="auc", patients=None, withheld=[1])
@example(seed=338, metric="auc", patients=None, withheld=[22])
@example(seed=372, metric="auc", patients=15, withheld=[20])
def test_whatever_is_withheld_never_raises_the_lower_bound(seed, metric, patients, withheld):
    """By one case more at a time; and never above what any answers in their place would give."""
    positive, model, readers, patient = study(seed, cases=30, readers=3, patients=patients)
    if metric != "auc":
        model, readers = decided(model), decided(readers)

    def lower(scores: np.ndarray) -> tuple[float, float] | None:
        found = against_readers(positive, scores, readers, patient, metric=metric, tail=TAIL)
        if not isinstance(found, ReaderComparison):
            return None
        return found.comparison.interval.low, found.comparison.difference

    before = lower(model)
    rng, silent = np.random.default_rng(seed), model.copy()
    for at in withheld:
        silent[at] = np.nan
        after = lower(silent)
        if before is None or after is None:
            return
        assert after[0] <= before[0] + 1e-12
        assert after[1] <= before[1] + 1e-12
        before = after
    for _ in range(5):
        answered = model.copy()
        answered[withheld] = rng.choice(model, len(withheld)) + (
            rng.normal(0, 2, len(withheld)) if metric == "auc" else 0
        )
        assert after[0] <= lower(answered)[0] + 1e-12


@pytest.mark.parametrize("readers", [3, 4, 6, 10, 20])
@pytest.mark.parametrize("tail", [0.001, 0.005, 0.025, 0.05, 0.1])
def test_the_error_falls_and_then_rises_with_what_readers_share(readers, tail):
    """So that its largest value over a range is at an end (rule 3)."""
    ratio = np.linspace(0, 12, 4001)  # of the readers' covariance to their mean square
    freedom = (readers - 1) * (1 + ratio) ** 2
    error = stats.t.ppf(1 - tail, freedom) * np.sqrt(1 + ratio)
    rises = np.diff(error) > 0
    assert (rises == np.maximum.accumulate(rises)).all()


def test_what_silence_costs_is_little():
    """100 cases, 5 readers: with 2 and 5 failed the bound lies little below all of them wrong."""
    positive, model, readers, _ = study(11, cases=100)
    costs = []
    for failed in (2, 5):
        silent, wrong = model.copy(), model.copy()
        silent[:failed] = np.nan
        wrong[:failed] = np.where(positive[:failed], -99.0, 99.0)
        low = [
            against_readers(positive, of, readers, metric="auc", tail=TAIL).comparison.interval.low
            for of in (silent, wrong)
        ]
        costs.append(low[1] - low[0])
    assert 0 <= costs[0] <= costs[1] < 0.025


def test_a_perfect_model_is_not_certain():
    positive, _, readers, _ = study(4)
    found = against_readers(positive, positive.astype(float), decided(readers),
                            metric="sensitivity", tail=TAIL)  # fmt: skip
    perfect = 0.025 ** (1 / 30)
    assert found.model == 1
    assert found.comparison.interval.low <= perfect - found.readers_mean + 1e-12


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p, m, r: (p, m, r[:, :1]), "1 reader says too little of how readers differ"),
        (lambda p, m, r: (p, m, r[:, :2]), "2 readers say too little"),
        (lambda p, m, r: (p, m, r[:, :0]), "there is no reader"),
        (lambda p, m, r: (p, m, np.repeat(r[:, :1], 4, axis=1)), "do not differ at all"),
        (lambda p, m, r: (p & False, m, r), "there is no positive case"),
        (lambda p, m, r: (p | True, m, r), "there is no negative case"),
        (lambda p, m, r: (np.arange(60) == 0, m, r), "one patient holds all cases of a class"),
        (lambda p, m, r: (p, m, np.where(np.arange(60)[:, None] < 2, np.nan, r)),
         "2 of 60 cases were not read by every reader"),
        (lambda p, m, r: (p[:0], m[:0], r[:0]), "there is no case"),
    ],
)  # fmt: skip
def test_what_can_t_be_compared_has_a_reason(change, reason):
    positive, model, readers = change(*study(1)[:3])
    found = against_readers(positive, model, readers, metric="auc", tail=TAIL)
    assert isinstance(found, Undefined)
    assert reason in found.reason
    outcome, said = judge_comparison(found.value, None, 0.05, found.reason)
    assert outcome == "insufficient_evidence"
    assert reason in said


def test_columns_that_do_not_fit_are_refused():
    positive, model, readers, _ = study(1)
    with pytest.raises(Invalid, match="60 cases"):
        against_readers(positive, model[:9], readers, metric="auc", tail=TAIL)
    with pytest.raises(Invalid, match="model's decisions for sensitivity must be 0 or 1"):
        against_readers(positive, model, readers, metric="sensitivity", tail=TAIL)
    with pytest.raises(Invalid, match="patient has 3 rows"):
        against_readers(positive, model, readers, np.arange(3), metric="auc", tail=TAIL)
    with pytest.raises(Invalid, match="readers' scores must be finite"):
        against_readers(positive, model, readers + np.inf, metric="auc", tail=TAIL)


def test_readers_are_judged_by_obuchowski_rockette_where_a_bootstrap_of_cases_errs():
    """One-sided error of a model exactly as good as the average reader, over 400 studies."""
    wrong_here = wrong_cases = 0
    studies, cases, skill = 400, 200, 0.3
    shift = 1.5
    at_mean = shift / math.sqrt(1 + skill**2 / 2)  # the readers' mean AUC is the model's
    for seed in range(studies):
        rng = np.random.default_rng([77, seed])
        positive = np.arange(cases) < cases // 2
        hard = rng.normal(size=cases) * math.sqrt(0.5)
        noise = rng.normal(size=(cases, 4)) * math.sqrt(0.5)
        of = np.append(at_mean, shift + skill * rng.normal(size=3))
        score = of * positive[:, None] + hard[:, None] + noise
        found = against_readers(positive, score[:, 0], score[:, 1:], metric="auc", tail=TAIL)
        wrong_here += found.comparison.interval.low > 0
        figures = figures_of("auc", positive, score, np.arange(cases))
        wrong_cases += found.comparison.difference - 1.96 * error_of_cases(figures) > 0
    limit = TAIL + 3 * math.sqrt(TAIL * (1 - TAIL) / studies)
    assert wrong_here / studies <= limit
    assert wrong_cases / studies > limit
