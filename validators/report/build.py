"""From an evaluation to `report.json`: the same inputs give the same bytes.

    >>> report = build_report(evaluate(table, protocol), protocol, digests, environment, citation)
    >>> digest = sha256_bytes(report_bytes(report))

Rules
-----
1. A report holds no clock, no random number and no path: it is a function of its arguments.
2. Every floating-point number is rounded to 12 significant digits. Sums may differ in the last
   two or three of 16 digits between processors; twelve are far beyond what any cohort resolves.
3. Curves are thinned for the plot: a point closer than 0.002 of both axes to the last one kept is
   left out (half a pixel in the figure, at most about 1,000 points). Nothing is computed from a
   thinned curve. Curves with a band have few points and stay whole.
4. A report carries numbers about groups alone. It is the facility's copy: what leaves the
   facility passes `validators.report.disclosure.release`.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import validators
from registry.trust.canonical import canonical, digest_of, sha256_file
from validators.drift.evidence import DriftEvidence
from validators.evidence import Curves, Digests, Environment, PredecessorEvidence, Report
from validators.metrics.figure import Figure
from validators.protocol.schema import Protocol

if TYPE_CHECKING:
    from validators.evaluate import Evaluation

SIGNIFICANT_DIGITS = 12
STEP = 0.002
_SOURCES = (".py", ".j2", ".css", ".json", ".typ")
Point = tuple[float, float]


def build_report(
    evaluation: "Evaluation",
    protocol: Protocol,
    digests: Digests,
    environment: Environment,
    attribution: str,
    drift: DriftEvidence | None = None,
    predecessor: PredecessorEvidence | None = None,
) -> Report:
    """The complete report of one evaluation, its numbers rounded by rule 2.

    `attribution` is the citation and licence of the data, or empty; `drift` how the cohort differs
    from the declared development data, `predecessor` how the model differs from its certified
    version, where there are such.
    """
    report = Report(
        protocol_id=protocol.id,
        protocol_version=protocol.version,
        title=protocol.title,
        intended_use=protocol.intended_use.model_dump(mode="json"),
        reference_standard=protocol.reference_in_words,
        sampling=protocol.sampling.in_words() if protocol.sampling else "",
        indeterminate=protocol.indeterminate.in_words() if protocol.indeterminate else "",
        pilot_mode=protocol.pilot_mode,
        regulatory_references=protocol.regulatory_references,
        goals_rationale=protocol.goals_rationale,
        task=protocol.task,
        threshold=protocol.threshold,
        alpha=protocol.each_alpha,
        digests=digests,
        case_flow=evaluation.case_flow,
        endpoints=evaluation.endpoints,
        complete_case=evaluation.complete_case,
        subgroups=evaluation.subgroups,
        sites=evaluation.sites,
        robustness=evaluation.robustness,
        drift=drift,
        leakage=evaluation.leakage,
        predecessor=predecessor,
        verdict=evaluation.verdict,
        curves=thinned(evaluation.curves),
        environment=environment,
        attribution=attribution,
    )
    return Report.model_validate(_rounded(report.model_dump(mode="json")))


def report_bytes(report: Report) -> bytes:
    """Canonical JSON (RFC 8785) of a report: the bytes that are stored, digested and signed."""
    return canonical(_rounded(report.model_dump(mode="json")))


def thinned(curves: Curves | None) -> Curves | None:
    """The curves with no more points than the figure can show (rule 3)."""
    if curves is None:
        return None
    return curves.model_copy(update={"figures": tuple(_thinned(one) for one in curves.figures)})


def _thinned(figure: Figure) -> Figure:
    lines = [of for of in figure.series if of.style == "line" and not of.low]
    points = [point for of in lines for point in of.points]
    if not points:
        return figure
    ends = (figure.x_range or _ends([x for x, _ in points]),
            figure.y_range or _ends([y for _, y in points]))  # fmt: skip
    steps = (STEP * (ends[0][1] - ends[0][0]), STEP * (ends[1][1] - ends[1][0]))
    series = tuple(
        of.model_copy(update={"points": tuple(thin(of.points, steps))}) if of in lines else of
        for of in figure.series
    )
    return figure.model_copy(update={"series": series})


def _ends(values: Sequence[float]) -> Point:
    return min(values), max(values)


def thin(points: Sequence[Point], steps: Point = (STEP, STEP)) -> list[Point]:
    """`points` without those closer than the steps in both axes to the last kept; ends stay."""
    kept: list[Point] = []
    for x, y in points:
        if not kept or abs(x - kept[-1][0]) >= steps[0] or abs(y - kept[-1][1]) >= steps[1]:
            kept.append((x, y))
    if points and kept[-1] != points[-1]:
        kept.append(points[-1])
    return kept


@cache
def code_digest() -> str:
    """The digest over the sources of `validators`: relative path to SHA-256, sorted by path.

    It names the program that computed the numbers. Read once a process: a program that is changed
    under a running process is not the one that runs.
    """
    root = Path(validators.__file__).parent
    return digest_of(
        {
            path.relative_to(root).as_posix(): sha256_file(path)
            for path in sorted(root.rglob("*"))
            if path.suffix in _SOURCES and path.is_file()
        }
    )


@cache
def preprocessing_digest() -> str:
    """The same over the sources of `validators.contract`: what makes a model's inputs."""
    root = Path(validators.__file__).parent / "contract"
    return digest_of(
        {
            path.relative_to(root).as_posix(): sha256_file(path)
            for path in sorted(root.rglob("*"))
            if path.suffix in _SOURCES and path.is_file()
        }
    )


def environment_digest(environment: Environment) -> str:
    """The digest of where the predictions were made."""
    return digest_of(_rounded(environment.model_dump(mode="json")))


def _rounded(value: Any) -> Any:
    """`value` with each float at 12 significant digits; -0.0 becomes 0.0."""
    if isinstance(value, float):
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}") + 0.0
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
