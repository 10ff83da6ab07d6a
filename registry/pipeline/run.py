"""One run of a submission over its cohort, and the parts that it is shared out in.

Rules
-----
1. Order and batches of the cases follow from the digests of model, protocol and cohort. They are
   the same for every run of a submission; only the inputs of one under a perturbation differ.
2. Which shards make up a part follows from the manifest alone: up to 16 in a row, fewer where the
   cohort is small, so that there is something to share out.
"""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Final

from registry.pipeline.before import inputs
from registry.pipeline.work import Work
from registry.trust.canonical import digest_of
from validators.cohort.keys import InputKey
from validators.cohort.manifest import Manifest
from validators.cohort.shard import Shard
from validators.robustness.perturb import perturbed
from validators.robustness.severity import Perturbation

_LARGEST_PART: Final = 16
_PARTS_WANTED: Final = 32


def step_of(perturbation: Perturbation | None) -> str:
    """The name of the step that a run is."""
    return "run" if perturbation is None else f"run/{perturbation.name}"


def parts_of(manifest: Manifest) -> list[range]:
    """Which shards make up each part, by their places in the manifest."""
    shards = len(manifest.shards)
    size = max(1, min(_LARGEST_PART, shards // _PARTS_WANTED))
    return [range(start, min(start + size, shards)) for start in range(0, shards, size)]


def shards_with(manifest: Manifest, cases: Sequence[str], wanted: Set[str]) -> Iterator[int]:
    """The shards that hold some of the wanted cases; `cases` are all, in the cohort's order."""
    start = 0
    for index, shard in enumerate(manifest.shards):
        if not wanted.isdisjoint(cases[start : start + shard.cases]):
            yield index
        start += shard.cases


@dataclass(frozen=True)
class Run:
    """What is run over what. `key` was released to this worker."""

    work: Work
    manifest: Manifest
    key: InputKey
    perturbation: Perturbation | None = None

    @property
    def name(self) -> str:
        """The name of the step that the run is."""
        return step_of(self.perturbation)

    @property
    def seed(self) -> str:
        """The digest that order and batches of the cases follow from."""
        return digest_of(self._bound_to)

    @property
    def about(self) -> dict[str, str]:
        """What the log says of the run besides the cohort."""
        return {} if self.perturbation is None else {"under": self.perturbation.name}

    def shards(self, only: Iterator[int]) -> Iterator[Shard]:
        """These shards, decrypted, and perturbed where the run is."""
        read = inputs(self.work, self.manifest, self.key, only)
        if self.perturbation is None:
            return read
        seed = digest_of([*self._bound_to, self.perturbation.name])
        return perturbed(read, self.perturbation, self.work.contract, seed=seed)

    @property
    def _bound_to(self) -> list[str]:
        return [self.work.row["model_digest"], self.work.protocol.digest, self.manifest.root]
