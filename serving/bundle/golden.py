"""Golden vectors: made-up inputs and the answers they gave at the facility, to be replayed.

    files = record(sandbox, make_inputs(contract, seed=protocol.digest), contract)
    replay(other_sandbox, files, contract, tolerance=1e-5)     # `serving.bundle.golden_replay`

Rules
-----
1. The inputs come from the contract and the seed alone, by SHAKE-256 and exact arithmetic: they
   are public, hold nothing of any patient, and are the same bytes on every machine.
2. The same cases are scored one by one, by sevens and all at once, each time in another order: a
   model whose answer depends on its neighbours or on what it saw before does not get through.
3. Where the contract begins at images some cases are files too (`raw_made`): they go the whole way,
   read, brought to the contract's form, answered. Where none can be made the record says why.
4. The files: `serving.bundle.golden_files`.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from registry.trust.canonical import canonical
from registry.trust.errors import Invalid, Refused
from serving.bundle.golden_answers import Runner, answers_of, distance, read_raw
from serving.bundle.golden_files import (
    LEAST_DICE,
    Arrays,
    Golden,
    GoldenInput,
    GoldenRun,
    RawCase,
    packed_maps,
    raw_prefix,
)
from serving.bundle.layout import GOLDEN_EXPECTED, GOLDEN_INPUTS, GOLDEN_MAPS, GOLDEN_RAW_MAPS
from serving.sandbox.failures import ModelFailure
from serving.sandbox.providers import NAMES
from validators.contract.made_up import make_case
from validators.contract.schema import Contract, DataType

CASES = 32
INPUT_BYTES = 64 << 20
"""Above this much, fewer cases are made: a volume of 512 x 512 x 300 is 300 MB by itself."""
RAW_CASES = 4
RAW_FILES = 600
RAW_BYTES = 64 << 20


@dataclass(frozen=True)
class GoldenInputs:
    """Made-up inputs by name, with the case axis first, and the seed that they came from."""

    arrays: Arrays
    seed: str

    @property
    def cases(self) -> int:
        """How many cases there are."""
        return len(next(iter(self.arrays.values())))


@dataclass(frozen=True)
class _Raw:
    """The raw cases that a model answers: their files, and the inputs that these are read to."""

    cases: tuple[RawCase, ...] = ()
    files: Mapping[str, bytes] | None = None
    arrays: Arrays | None = None
    none: str = ""


def make_inputs(contract: Contract, seed: str) -> GoldenInputs:
    """32 made-up cases that the contract allows; fewer where they would be over 64 MiB."""
    case_bytes = sum(math.prod(t.shape) * np.dtype(t.dtype).itemsize for t in contract.inputs)
    cases = max(2, min(CASES, INPUT_BYTES // case_bytes))
    return GoldenInputs(
        {
            tensor.name: np.stack([make_case(tensor, seed, case) for case in range(cases)])
            for tensor in contract.inputs
        },
        seed,
    )


def record(sandbox: Runner, inputs: GoldenInputs, contract: Contract) -> dict[str, bytes]:
    """The golden files, by their paths in the bundle.

    A made-up case that the model can't answer by itself is left out: all-zero input may divide by
    zero in a model that never meets it. Raises Refused (golden_unusable) when fewer than half are
    left, Refused (not_repeatable) when the runs differ by more than the contract's tolerance, and
    ModelFailure when a batch of answered cases fails, or the process dies.
    """
    inputs = _answerable(sandbox, inputs, contract)
    runs, maps = _recorded(sandbox, inputs.arrays, contract, inputs.seed, (1, 7, inputs.cases))
    raw = _raw(sandbox, inputs, contract)
    raw_runs: tuple[GoldenRun, ...] = ()
    raw_maps: dict[str, bytes] = {}
    if raw.arrays is not None:
        batches = (1, len(raw.cases))
        raw_runs, of_raw = _recorded(sandbox, raw.arrays, contract, f"{inputs.seed}/raw", batches)
        raw_maps = {} if of_raw is None else {GOLDEN_RAW_MAPS: packed_maps(of_raw)}
    golden = Golden(
        seed=inputs.seed,
        score=contract.score,
        tolerances=dict.fromkeys(NAMES, contract.tolerance),
        least_dice=None if contract.reference is None else LEAST_DICE,
        inputs=tuple(
            GoldenInput(name=name, dtype=cast(DataType, array.dtype.name), shape=array.shape)
            for name, array in inputs.arrays.items()
        ),
        runs=runs,
        raw=raw.cases,
        raw_runs=raw_runs,
        no_raw=raw.none,
    )
    little = (array.astype(array.dtype.newbyteorder("<")) for array in inputs.arrays.values())
    return {
        GOLDEN_INPUTS: b"".join(array.tobytes() for array in little),
        GOLDEN_EXPECTED: canonical(golden.model_dump(mode="json")),
        **({} if maps is None else {GOLDEN_MAPS: packed_maps(maps)}),
        **(raw.files or {}),
        **raw_maps,
    }


def _recorded(
    sandbox: Runner, arrays: Arrays, contract: Contract, seed: str, batches: Sequence[int]
) -> tuple[tuple[GoldenRun, ...], NDArray[np.uint8] | None]:
    """The runs over all cases, and the maps of the first one by case. Raises Refused."""
    cases = len(next(iter(arrays.values())))
    runs: list[GoldenRun] = []
    first: NDArray[np.uint8] | None = None
    by_case, same = [], True
    for batch in sorted(set(batches), reverse=True):
        order = _order(seed, batch, cases)
        answers = list(answers_of(sandbox, arrays, contract, batch, order))
        scores = np.concatenate([numbers for numbers, _ in answers])
        runs.append(GoldenRun(batch=batch, order=order, scores=tuple(map(float, scores))))
        by_case.append([score for _, score in sorted(zip(order, scores.tolist(), strict=True))])
        parts = [maps for _, maps in answers if maps is not None]
        if parts:
            maps = np.concatenate(parts)[np.argsort(order)]
            first = maps if first is None else first
            share, dice = distance(first, maps)
            same = same and share <= contract.tolerance and dice >= LEAST_DICE
    if not same or float(np.ptp(np.array(by_case), axis=0).max()) > contract.tolerance:
        raise Refused(
            "the model is not repeatable: made-up cases got other scores in another order and "
            "batch size",
            code="not_repeatable",
        )
    return tuple(runs), first


def _raw(sandbox: Runner, inputs: GoldenInputs, contract: Contract) -> _Raw:
    """Made-up files of the contract's images; why there are none, or nothing without images."""
    images = [(n, tensor) for n, tensor in enumerate(contract.inputs) if tensor.image is not None]
    if not images:
        return _Raw()
    from serving.bundle.raw_made import files_of_a_case, made_files

    try:
        sizes = [files_of_a_case(tensor) for _, tensor in images]
        number = min(
            RAW_CASES,
            RAW_FILES // sum(count for count, _ in sizes),
            max(1, RAW_BYTES // sum(size for _, size in sizes)),
        )
        files = {
            raw_prefix(case, n) + name: data
            for case in range(number)
            for n, tensor in images
            for name, data in made_files(tensor, inputs.seed, case).items()
        }
        listed = [RawCase(folder=case, row=case % inputs.cases) for case in range(number)]
        arrays = read_raw(files, contract, listed, inputs.arrays) if listed else {}
    except Invalid as error:
        return _Raw(none=f"such images can't be made up: {error.message}"[:300])
    if not listed:
        return _Raw(none=f"one case would be more than {RAW_FILES} files")
    usable = _answered(sandbox, arrays, contract, number)
    if not usable:
        return _Raw(none="the model answers none of the made-up images")
    folders = tuple(f"{raw_prefix(case, 0)[:-2]}" for case in usable)
    return _Raw(
        tuple(listed[case] for case in usable),
        {path: data for path, data in files.items() if path.startswith(folders)},
        {name: array[usable] for name, array in arrays.items()},
    )


def _answerable(sandbox: Runner, inputs: GoldenInputs, contract: Contract) -> GoldenInputs:
    """The cases that the model answers one by one."""
    usable = _answered(sandbox, inputs.arrays, contract, inputs.cases)
    if 2 * len(usable) < inputs.cases:
        raise Refused(
            f"the model answers {len(usable)} of {inputs.cases} made-up cases that its contract "
            "allows; state the inputs' minimum and maximum in the contract, or mend the model",
            code="golden_unusable",
        )
    return GoldenInputs({name: a[usable] for name, a in inputs.arrays.items()}, inputs.seed)


def _answered(sandbox: Runner, arrays: Arrays, contract: Contract, cases: int) -> list[int]:
    usable = []
    for case in range(cases):
        try:
            list(answers_of(sandbox, arrays, contract, 1, (case,)))
        except ModelFailure as failure:
            if failure.fatal:
                raise
        else:
            usable.append(case)
    return usable


def _order(seed: str, batch: int, cases: int) -> tuple[int, ...]:
    """Cases by the hash of their number: another order for each batch size."""
    keys = [hashlib.sha256(f"{seed}/{batch}/{case}".encode()).digest() for case in range(cases)]
    return tuple(sorted(range(cases), key=keys.__getitem__))
