"""The evidence of one run and the report built of it: the shapes that every room agrees on.

A `Report` is what `report.json` holds. It is made of numbers about groups only; a value of
one patient has no place in it. The facility's copy is complete; what leaves the facility has
passed `validators.report.disclosure.release`.
"""

from typing import Literal, cast

from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from validators.comparators.predecessor_evidence import PredecessorEvidence
from validators.contract.schema import Strict
from validators.contract.strict import Grown
from validators.drift.evidence import DriftEvidence
from validators.leakage.evidence import LeakageEvidence
from validators.metrics.figure import Figure, Matrix
from validators.outcome import Interval, Outcome, Overall
from validators.robustness.evidence import RobustnessEvidence
from validators.sites.evidence import SitesEvidence, WithinSites

__all__ = [
    "CaseFlow", "Comparison", "CompleteCase", "Curves", "Digests", "EndpointEvidence",
    "Environment", "Evidence", "Interval", "Outcome", "Overall", "PredecessorEvidence", "Report",
    "RuleVerdict", "SubgroupEvidence", "Verdict",
]  # fmt: skip


class Comparison(Strict):
    """An endpoint against another model or against readers who read the same cases.

    `difference` is the model less the comparator, positive where the model is better. Against
    readers, `value` is their average and `readers` how many they are.
    """

    name: str
    kind: Literal["model", "readers"]
    margin: float
    value: float | None
    readers: int | None
    difference: float | None
    interval: Interval | None


class EndpointEvidence(Strict):
    """One endpoint. `n` are cases; `clusters` are patients where the protocol clusters."""

    metric: str
    estimate: float | None
    interval: Interval | None
    n: int
    positives: int | None
    """Of a binary question; None of any other."""
    negatives: int | None
    clusters: int | None
    goal: float | None
    band: tuple[float, float] | None = None
    comparison: Comparison | None = None
    role: str
    rule: str
    outcome: Outcome
    reason: str


class SubgroupEvidence(Strict):
    """One group of one attribute: its own value, and its gap to the rest of the cohort.

    `gap` is rest minus group (group minus rest where less is better): positive where the group is
    worse off. Metrics that belong in a band have a signed gap, rest minus group.
    `adjusted_p` is Holm's within the attribute, one-sided, for a gap of at least nothing.
    """

    attribute: str
    group: str
    metric: str
    n: int
    positives: int | None
    negatives: int | None
    clusters: int | None
    estimate: float | None
    interval: Interval | None
    gap: float | None
    gap_interval: Interval | None
    adjusted_p: float | None
    margin: float | None
    floor: float | None
    rule: str
    outcome: Outcome
    reason: str
    within_sites: WithinSites | None = None
    """The gap compared within hospitals, where the protocol names their attribute."""


class CaseFlow(Strict):
    """From what was sealed to what was scored, as STARD's flow asks."""

    sealed: int
    excluded: dict[str, int]
    """Left out before sealing, by reason; not part of `sealed`."""
    scored: int
    failed: int
    failed_by_code: dict[str, int]
    positives: int | None
    negatives: int | None
    patients: int | None
    indeterminate: int | None = None
    """Answers between the protocol's two limits; None where it has none."""


class CompleteCase(Strict):
    """The same endpoint with failed cases left out: shown beside, never judged."""

    metric: str
    estimate: float | None
    interval: Interval | None
    n: int


class RuleVerdict(Strict):
    """One rule with its reason, in the words shown to people."""

    id: str
    gating: bool
    outcome: Outcome
    if_insufficient: Literal["block", "conditional"]
    reason: str


class Verdict(Strict):
    """Computed, never edited."""

    overall: Overall
    reason: str
    rules: tuple[RuleVerdict, ...]
    conditions: tuple[str, ...]
    """What a conditional certificate must state: one sentence an insufficient rule."""


class Evidence(Strict):
    """All that rules are held against."""

    endpoints: tuple[EndpointEvidence, ...]
    complete_case: tuple[CompleteCase, ...]
    subgroups: tuple[SubgroupEvidence, ...]
    sites: tuple[SitesEvidence, ...] = ()
    robustness: tuple[RobustnessEvidence, ...] = ()
    case_flow: CaseFlow


class Curves(Strict):
    """What the plots draw. Facility-internal: never released."""

    figures: tuple[Figure, ...] = ()
    matrices: tuple[Matrix, ...] = ()


class Digests(Strict):
    """Everything the report was computed from, by name. None where there is none (`assess`)."""

    model: str | None
    protocol: str
    cohort_root: str | None
    predictions: str | None
    code: str
    environment: str


class _Shown(Grown):
    """A document with fields that were added later, whose schema shows them."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The fields, which the serializer that leaves one out would hide."""
        plain = {key: value for key, value in schema.items() if key != "serialization"}
        return handler(cast(CoreSchema, plain))


class Environment(_Shown):
    """Where the predictions were made; all that a reader needs to reproduce them."""

    added_later = ("execution",)

    versions: dict[str, str]
    providers: tuple[str, ...] = ()
    sandbox: dict[str, int | bool | str] = {}
    """seccomp, landlock_abi, no_new_privileges, …: the level the run really had."""
    execution: dict[str, int | bool | str] = {}
    """What computed: provider, class of CPU or GPU with driver, graph level, threads, batch rule,
    the provider's own options. Bytes are alike within one class and one set of options."""
    repeatability: dict[str, int | float | bool | str] = {}
    """Re-run at batch 1 in another order: cases compared, largest difference, decisions changed."""


class Report(_Shown):
    """report.json."""

    added_later = ("predecessor",)

    schema_id: Literal["touchstone/report/v1"] = "touchstone/report/v1"
    protocol_id: str
    protocol_version: str
    title: str
    intended_use: dict[str, str | float | None]
    task: str = "binary"
    threshold: float | None
    alpha: float
    """Of one attempt."""
    digests: Digests
    case_flow: CaseFlow
    endpoints: tuple[EndpointEvidence, ...]
    complete_case: tuple[CompleteCase, ...]
    subgroups: tuple[SubgroupEvidence, ...]
    verdict: Verdict
    curves: Curves | None
    environment: Environment
    reference_standard: str = ""
    """What was taken as the truth, in the protocol's words."""
    sampling: str = ""
    """How the cohort's cases came in, in the protocol's words."""
    indeterminate: str = ""
    """How answers that are neither positive nor negative count, in words."""
    pilot_mode: str = "shadow"
    regulatory_references: tuple[str, ...] = ()
    """What a pilot needs beside the certificate."""
    goals_rationale: str = ""
    """Why these goals, as written down before the first run."""
    attribution: str
    """Citation and licence of the data, where its licence asks for it."""
    sites: tuple[SitesEvidence, ...] = ()
    robustness: tuple[RobustnessEvidence, ...] = ()
    drift: DriftEvidence | None = None
    leakage: LeakageEvidence | None = None
    predecessor: PredecessorEvidence | None = None
    """Against the certified version of the same model; None, and left out, where there is none."""
    statement: str = "Standalone performance; no human-factors evidence."
