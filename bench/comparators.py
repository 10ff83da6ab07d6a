"""How often comparisons with readers, models, hospitals and groups are wrong, by simulation.

    python -m bench.comparators              # about two minutes on one core
    python -m bench.comparators --cohorts 300 --markdown

Columns: `too high` and `too low` are the shares of cohorts whose lower (upper) bound missed the
true value: one-sided errors, nominal .025. `cover` is nominal .95. The last two columns are `too
high` and `cover` of the textbook's method that is named in the title. A star: above .025 by more
than three standard errors of the simulation.
"""

import argparse
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import special

from validators.comparators.readers import ReaderComparison, against_readers
from validators.intervals.bootstrap import Resampled
from validators.intervals.paired import paired_statistics
from validators.intervals.proportion import Pair
from validators.intervals.share import Share, share
from validators.metrics.measure import Undefined
from validators.sites.by_site import on_scale
from validators.sites.prediction import prediction
from validators.sites.random_effects import RandomEffects, summarise
from validators.sites.stratified import StratifiedGap, stratified_gap

TAIL = 0.025
HEADS = ("condition", "true", "too high", "too low", "cover", "too high", "cover")
Random = np.random.Generator
Floats = NDArray[np.float64]
Draw = Callable[[Random], tuple[float, Pair, Pair | None] | None]
"""A cohort's true value, judged interval and textbook's interval."""


def readers_draw(readers: int, cases: int, skill: float, metric: str) -> Draw:
    """A model of AUC .86 and readers whose separation varies by `skill` around the model's.

    Half of the cases are positive; half of a score's variance is the case's, shared by all.
    """
    positive = np.arange(cases) < cases // 2
    shift, cut = 1.5, 0.75
    if metric == "auc":
        true = special.ndtr(shift / math.sqrt(2))
        true -= special.ndtr(shift / math.sqrt(2 + skill**2))
    else:
        true = special.ndtr(shift - cut) - special.ndtr((shift - cut) / math.sqrt(1 + skill**2))

    def draw(rng: Random) -> tuple[float, Pair, Pair | None] | None:
        noise = rng.normal(size=(cases, 1)) + rng.normal(size=(cases, readers + 1))
        of = shift + np.append(0.0, skill * rng.normal(size=readers))
        score = of * positive[:, None] + math.sqrt(0.5) * noise
        if metric != "auc":
            score = (score > cut).astype(float)
        found = against_readers(
            positive, score[:, 0], score[:, 1:], metric=metric, tail=TAIL  # type: ignore[arg-type]
        )  # fmt: skip
        if not isinstance(found, ReaderComparison):
            return None
        interval = found.comparison.interval
        textbook = case_bootstrap(rng, score, positive, metric)
        return float(true), (interval.low, interval.high), textbook

    return draw


def case_bootstrap(rng: Random, score: Floats, positive: NDArray[np.bool_], metric: str) -> Pair:
    """Cases drawn within classes, these readers kept: the percentile interval."""
    x, y = score[positive], score[~positive]
    of_x, of_y = (
        rng.multinomial(len(z), np.full(len(z), 1 / len(z)), 200) / len(z) for z in (x, y)
    )
    if metric == "auc":
        above = (x[:, None] > y).astype(float) + 0.5 * (x[:, None] == y)
        above = above[:, :, 0] - above[:, :, 1:].mean(axis=2)
        drawn = ((of_x @ above) * of_y).sum(axis=1)
    else:
        drawn = of_x @ (x[:, 0] - x[:, 1:].mean(axis=1))
    low, high = np.quantile(drawn, (TAIL, 1 - TAIL))
    return float(low), float(high)


def models_draw(patients: int, first: float, second: float) -> Draw:
    """The sensitivities of two models that mostly err in the same cases."""
    strata = np.zeros(patients, dtype=np.int64)

    def draw(rng: Random) -> tuple[float, Pair, Pair | None] | None:
        hard = rng.normal(size=patients)
        right = [
            (0.8 * hard + 0.6 * rng.normal(size=patients) < special.ndtri(p)).astype(float)
            for p in (first, second)
        ]
        model, other = ((lambda drawn, of=of: drawn @ of / drawn.sum(axis=1)) for of in right)
        found = paired_statistics(model, other, strata, n=patients, clusters=None,
                                  scale=(0.0, 1.0), replicates=500)  # fmt: skip
        if not isinstance(found, Resampled):
            return None
        difference = right[0] - right[1]
        half = 1.96 * float(difference.std()) / math.sqrt(patients)
        plain = found.value - half, found.value + half
        return first - second, found.gating(TAIL), plain

    return draw


def hospitals_draw(sites: int, cases: int, p: float, tau: float, *, another: bool) -> Draw:
    """Hospitals' sensitivities on the logit scale: their mean, or another one's value."""
    centre = float(special.logit(p))

    def draw(rng: Random) -> tuple[float, Pair, Pair | None] | None:
        true = special.expit(centre + tau * rng.normal(size=sites))
        sizes = np.maximum(rng.poisson(cases, sites), 2)
        right = rng.binomial(sizes, true)
        sides = [Share(x / n, int(n), None) for x, n in zip(right, sizes, strict=True)]
        value, variance = on_scale(sides, "logit")
        fitted = summarise(value, variance)
        if not isinstance(fitted, RandomEffects):
            return None
        if another:
            judged = prediction(fitted, value, variance, TAIL)
            return centre + tau * float(rng.normal()), judged, fitted.prediction(TAIL)
        return centre, fitted.interval(TAIL), own_variances(right, sizes)

    return draw


def own_variances(right: NDArray[np.int64], sizes: NDArray[np.int64]) -> Pair | None:
    """The interval of the mean where each hospital has the variance of its own value."""
    events, misses = right + 0.5, sizes - right + 0.5
    fitted = summarise(np.log(events / misses), 1 / events + 1 / misses)
    return fitted.interval(TAIL) if isinstance(fitted, RandomEffects) else None


def gap_draw(sites: int, group: int, rest: int, p: float, gap: float, alike: float) -> Draw:
    """A group behind the rest by `gap` in each hospital; `alike`: two cases a patient."""
    each = np.repeat([True, False], [group, rest])
    copies = 2 if alike else 1
    inside = np.repeat(np.tile(each, sites), copies)
    site = np.repeat(np.char.mod("s%02d", np.arange(sites)), len(each) * copies)
    patient = np.repeat(np.arange(sites * len(each)), copies)
    level = np.repeat(p + np.linspace(-0.04, 0.04, sites), len(each) * copies) - gap * inside

    def draw(rng: Random) -> tuple[float, Pair, Pair | None] | None:
        shared = rng.normal(size=sites * len(each))[patient]
        noise = math.sqrt(alike) * shared + math.sqrt(1 - alike) * rng.normal(size=len(site))
        right = special.ndtr(noise) < level
        found = stratified_gap(site, inside, lambda chosen, _: share_of(right, chosen))
        if not isinstance(found, StratifiedGap):
            return None
        return gap, found.gating(TAIL), robins(found)

    def share_of(right: NDArray[np.bool_], chosen: NDArray[np.bool_]) -> Share | Undefined:
        failed = np.zeros(int(chosen.sum()), dtype=bool)
        code = patient[chosen] if alike else None
        return share(right[chosen], failed, code, clusters=int(patient.max()) + 1)

    return draw


def robins(found: StratifiedGap) -> Pair:
    """Greenland & Robins' interval, cases taken as independent."""
    total = sum(of.weight for of in found.sites)
    variance = sum(
        of.weight**2 * side.value * (1 - side.value) / side.n
        for of in found.sites
        for side in (of.group, of.rest)
    )
    half = 1.96 * math.sqrt(variance) / total
    return found.value - half, found.value + half


def row(draw: Draw, cohorts: int, seed: int) -> list[str]:
    """Simulate one condition; the cells after its name."""
    rng = np.random.default_rng([2026, seed])
    counted, trues, misses = 0, [], np.zeros(4)
    for _ in range(cohorts):
        drawn = draw(rng)
        if drawn is None:
            continue
        true, judged, textbook = drawn
        if textbook is None:
            continue
        counted += 1
        trues.append(true)
        misses += [judged[0] > true + 1e-12, judged[1] < true - 1e-12,
                   textbook[0] > true + 1e-12, textbook[1] < true - 1e-12]  # fmt: skip
    limit = TAIL + 3 * math.sqrt(TAIL * (1 - TAIL) / counted)
    high, low, high2, low2 = misses / counted

    def starred(error: float) -> str:
        return f"{error:.3f}{'*' if error > limit else ''}"

    return [f"{np.mean(trues):.3f}", starred(high), starred(low), f"{1 - high - low:.3f}",
            starred(high2), f"{1 - high2 - low2:.3f}"]  # fmt: skip


def run(
    console: Console,
    title: str,
    conditions: list[tuple[str, Draw]],
    cohorts: int,
    *,
    markdown: bool,
) -> None:
    """Simulate each condition and print the table."""
    rows = [
        [name, *row(draw, cohorts, position)] for position, (name, draw) in enumerate(conditions)
    ]
    if markdown:
        lines = [HEADS, ["---"] + ["--:"] * (len(HEADS) - 1), *rows]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        console.print(f"\n**{title}**\n\n{text}", soft_wrap=True, markup=False, highlight=False)
        return
    table = Table(title=title, title_justify="left")
    for head in HEADS:
        table.add_column(head, justify="left" if head == "condition" else "right")
    for cells in rows:
        table.add_row(*cells)
    console.print(table)


def main() -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohorts", type=int, default=1000)
    parser.add_argument("--markdown", action="store_true")
    asked = parser.parse_args()
    console, cohorts, markdown = Console(width=110), asked.cohorts, asked.markdown
    run(console, "Model against readers: Obuchowski-Rockette (textbook: case bootstrap)", [
        (f"{metric}, {j} readers, {k} cases, skill {skill:g}", readers_draw(j, k, skill, metric))
        for metric, skill in (("auc", 0.1), ("auc", 0.3), ("sensitivity", 0.3))
        for j in (3, 5, 10) for k in (50, 100, 200) if skill > 0.1 or k == 100
    ], cohorts, markdown=markdown)  # fmt: skip
    run(console, "Model against model, sensitivity: paired bootstrap (textbook: Wald)", [
        (f"{k} patients, {first:g} against {second:g}", models_draw(k, first, second))
        for k in (40, 100, 300) for first, second in ((0.9, 0.9), (0.85, 0.9), (0.97, 0.97))
    ], cohorts, markdown=markdown)  # fmt: skip
    hospitals = [(k, n, p, tau) for k in (5, 8, 20) for n in (20, 100)
                 for p, tau in ((0.8, 0.0), (0.8, 0.4), (0.9, 0.5))]  # fmt: skip
    run(console, "Mean of hospitals, logit scale (textbook: each with its own variance)", [
        (f"{k} sites of {n}, {p:g}, tau {tau:g}", hospitals_draw(k, n, p, tau, another=False))
        for k, n, p, tau in hospitals
    ], cohorts, markdown=markdown)  # fmt: skip
    run(console, "Another hospital: prediction interval (textbook: t with k - 2)", [
        (f"{k} sites of {n}, {p:g}, tau {tau:g}", hospitals_draw(k, n, p, tau, another=True))
        for k, n, p, tau in hospitals if tau
    ], cohorts, markdown=markdown)  # fmt: skip
    run(console, "Gap within hospitals: Sato and MOVER (textbook: Greenland & Robins)", [
        (f"{k} sites, {n1} against {n0} {'patients of 2' if alike else 'cases'}, {p:g}",
         gap_draw(k, n1, n0, p, gap, alike))
        for k, n1, n0 in ((3, 30, 60), (8, 5, 15), (20, 2, 5))
        for p, gap, alike in ((0.9, 0.0, 0.0), (0.9, 0.1, 0.0), (0.8, 0.1, 0.5))
    ], cohorts, markdown=markdown)  # fmt: skip


if __name__ == "__main__":
    main()
