"""A made-up cohort that looks like a locked one from outside: same contract, nothing of a patient.

    >>> cohort = make_look_alike(protocol, seed="1")
    >>> next(cohort.shards()).inputs["image"].shape
    (256, 1, 64, 64)

Rules
-----
1. It is a function of the protocol, the number of cases, the seed and the group names given.
   Nothing else is read: no cohort, no clock.
2. Inputs have the contract's types, shapes and limits (`validators.contract.made_up`) and say
   nothing about the reference standard: no score on them means anything.
3. Both classes occur, in the protocol's own proportion; every attribute that the protocol looks at
   has every group, crossed with the others as far as the cases last. A protocol does not list
   groups: they are named by whoever asks, or made up.
4. Of a segmentation, `reference` says whether a case's made-up masks
   (`validators.cohort.look_alike_masks`) mark anything.
5. Other models' scores, readers' ratings and sampling weights are made up where it asks for them.
6. One shard is in memory at a time.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid, Refused
from validators.cohort.shard import Shard
from validators.contract.made_up import make_case, plausible, uniform
from validators.contract.schema import Contract
from validators.protocol.schema import Protocol as ValidationProtocol
from validators.table import asked_attributes

NOTE = (
    "MADE-UP DATA: no patient, no image, no reference standard behind it. Numbers computed on it "
    "say that the model runs, and nothing about how good it is."
)
FEWEST = 8
_SHARD_CASES = 256
_SHARD_BYTES = 64 << 20
_MOST_BYTES = 2 << 30
"""Of inputs, where nobody said how many cases to make."""
_GROUPS = ("made-up-a", "made-up-b")
_SITES = 5
Columns = dict[str, list[str]]
Groups = Mapping[str, Sequence[str]]


class LookAlike(Protocol):
    """A look-alike cohort, made on the way or read from a folder."""

    @property
    def columns(self) -> Columns:
        """case, patient, reference, attributes and what else the protocol asks for, as text."""
        ...

    def shards(self) -> Iterator[Shard]:
        """The inputs, in the order of the columns."""
        ...


@dataclass(frozen=True)
class MadeUp:
    """A look-alike cohort whose inputs are made when they are asked for."""

    contract: Contract
    seed: str
    columns: Columns = field(repr=False)
    groups: dict[str, tuple[str, ...]]

    @property
    def cases(self) -> int:
        """How many cases there are."""
        return len(self.columns["case"])

    def inputs(self, position: int) -> dict[str, NDArray[Any]]:
        """The tensors of one case, without a batch axis."""
        return {
            tensor.name: make_case(plausible(tensor), f"look-alike/{self.seed}", position)
            for tensor in self.contract.inputs
        }

    def shards(self) -> Iterator[Shard]:
        """The inputs, in the order of the columns."""
        size = max(1, min(_SHARD_CASES, _SHARD_BYTES // case_bytes(self.contract)))
        names = self.columns["case"]
        for index, start in enumerate(range(0, self.cases, size)):
            rows = [self.inputs(n) for n in range(start, min(start + size, self.cases))]
            arrays = {t.name: np.stack([row[t.name] for row in rows]) for t in self.contract.inputs}
            yield Shard(index, tuple(names[start : start + len(rows)]), arrays)


def make_look_alike(
    protocol: ValidationProtocol, *, cases: int | None = None, seed: str = "1",
    groups: Groups | None = None,
) -> MadeUp:  # fmt: skip
    """A look-alike of the cohort that the protocol was written for.

    cases: as many as the protocol needs where left out, at most 2 GiB of inputs. groups: the names
    of an attribute's groups, where they are known. Raises Refused for a protocol that no model can
    be run by, Invalid for too few cases or a group of an attribute that the protocol does not know.
    """
    masks = protocol.contract is not None and protocol.contract.reference is not None
    if protocol.contract is None or protocol.task != ("segmentation" if masks else "binary"):
        raise Refused(
            "a look-alike cohort is made for a binary question, or a segmentation whose contract "
            "has masks, alone; score a table of this one's predictions with `touchstone assess`"
        )
    named = _groups(protocol, groups or {})
    positives, negatives = _needed(protocol, named)
    total = positives + negatives
    if cases is None:
        cases = max(FEWEST, min(total, _MOST_BYTES // case_bytes(protocol.contract)))
    if cases < FEWEST:
        raise Invalid(f"--cases {cases} is too few; make at least {FEWEST}")
    positives = min(max(1, round(cases * positives / total)), cases - 1)
    columns = _columns(protocol, cases, positives, f"look-alike/{seed}", named)
    return MadeUp(protocol.contract, seed, columns, named)


def case_bytes(contract: Contract) -> int:
    """Bytes of one case's inputs."""
    return sum(math.prod(t.shape) * np.dtype(t.dtype).itemsize for t in contract.inputs)


def _groups(protocol: ValidationProtocol, given: Groups) -> dict[str, tuple[str, ...]]:
    asked = asked_attributes(protocol)
    for name, values in given.items():
        if name not in asked:
            known = ", ".join(asked) or "none"
            raise Invalid(f"the protocol looks at no attribute {name!r}; it looks at {known}")
        if len(set(values)) != len(values) or not all(values):
            raise Invalid(f"--group {name}=… names a group twice, or one without a name")
    named = {name: tuple(given.get(name) or _GROUPS) for name in asked}
    if protocol.sites and protocol.sites.attribute not in given:
        least = protocol.cohort.sites if protocol.cohort and protocol.cohort.sites else 0
        number = max(_SITES, least)
        named[protocol.sites.attribute] = tuple(f"made-up-site-{n + 1}" for n in range(number))
    return named


def _needed(protocol: ValidationProtocol, named: Groups) -> tuple[int, int]:
    """(positives, negatives) with which the protocol's counts and each group's minimum are met."""
    wanted = protocol.cohort
    positives, negatives = (wanted.positives, wanted.negatives) if wanted else (1, 1)
    for rule in protocol.subgroups:
        least = rule.minimum * math.prod(len(named[name]) for name in rule.attributes)
        if rule.metric != "specificity":
            positives = max(positives, least)
        if rule.metric != "sensitivity":
            negatives = max(negatives, least)
    return max(positives, FEWEST // 2), max(negatives, FEWEST // 2)


def _columns(
    protocol: ValidationProtocol, cases: int, positives: int, key: str, named: Groups
) -> Columns:
    order = np.argsort(uniform(f"{key}/reference", cases), kind="stable")
    reference = np.zeros(cases, dtype=int)
    reference[order[:positives]] = 1
    # The place of each case among those of its class: groups are dealt out in turn.
    turn = np.where(reference == 1, np.cumsum(reference), np.cumsum(1 - reference)) - 1
    columns: Columns = {
        "case": [f"made-up-{n:05d}" for n in range(cases)],
        "patient": [f"made-up-patient-{n - (n % 4 == 3):05d}" for n in range(cases)],
        "reference": [str(value) for value in reference],
    }
    step = 1
    for name, values in named.items():
        columns[name] = [values[(int(place) // step) % len(values)] for place in turn]
        step *= len(values)
    columns |= _others(protocol, cases, key)
    return columns


def _others(protocol: ValidationProtocol, cases: int, key: str) -> Columns:
    """Other models' scores, readers' ratings around their threshold, and sampling weights."""
    columns: Columns = {}
    for endpoint in protocol.endpoints:
        against = endpoint.comparator
        for name in against.columns if against else ():
            draws = uniform(f"{key}/{name}", cases)
            if against is not None and against.kind == "readers":
                middle = 3.0 if against.threshold is None else against.threshold
                draws = middle + np.floor(draws * 5.0) - 2.0
            columns[name] = [f"{value:.6g}" for value in draws]
    if protocol.sampling and protocol.sampling.weights:
        draws = 0.5 + uniform(f"{key}/weights", cases)
        columns[protocol.sampling.weights] = [f"{value:.6g}" for value in draws]
    return columns
