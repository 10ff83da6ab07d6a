"""Golden vectors: made-up inputs and the scores they gave at the facility, to be replayed.

    files = record(sandbox, make_inputs(contract, seed=protocol.digest), contract)
    replay(other_sandbox, files, contract, tolerance=1e-5)     # ReplayResult, or Refused

Rules
-----
1. The inputs come from the contract and the seed alone, by SHAKE-256 and exact arithmetic: they
   are public, hold nothing of any patient, and are the same bytes on every machine.
2. The same cases are scored one by one, by sevens and all at once, each time in another order: a
   model whose answer depends on its neighbours or on what it saw before does not get through.
3. A score farther from the recorded one than the certificate's tolerance ends the replay, and so
   does anything else that is not as it should be: there is no partial success.
4. A map of labels is compared by one number of it (`serving.sandbox.outputs.numbers_of`).
5. The files are a block of little-endian numbers and JSON beside it. Nothing is unpickled.

`golden/expected.json` names the schema, the seed, each input's dtype and shape with the case
axis first, and each run's batch size, order of cases and scores in that order.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from registry.trust.canonical import canonical
from registry.trust.errors import Refused, Tampered
from serving.bundle.layout import GOLDEN_EXPECTED, GOLDEN_INPUTS
from serving.sandbox.failures import ModelFailure
from serving.sandbox.outputs import check_outputs, numbers_of
from validators.contract.made_up import make_case
from validators.contract.schema import Contract, DataType, Name, Strict

CASES = 32
INPUT_BYTES = 64 << 20
"""Above this much, fewer cases are made: a volume of 512 x 512 x 300 is 300 MB by itself."""

Arrays = Mapping[str, NDArray[Any]]


class Runner(Protocol):
    """What is asked of a sandbox: one call of the loaded model."""

    def run(self, inputs: Arrays, /) -> dict[str, NDArray[Any]]: ...


class GoldenInput(Strict):
    """One input as it lies in golden/inputs.bin, which holds them in this order, gapless."""

    name: Name
    dtype: DataType
    shape: tuple[Annotated[int, Field(gt=0)], ...]


class GoldenRun(Strict):
    """All cases once: in `order`, `batch` at a time, the last batch as short as it comes."""

    batch: Annotated[int, Field(gt=0)]
    order: tuple[int, ...]
    scores: tuple[float, ...]


class Golden(Strict):
    """golden/expected.json."""

    schema_id: Literal["touchstone/golden/v1"] = "touchstone/golden/v1"
    seed: str
    score: Name
    inputs: tuple[GoldenInput, ...]
    runs: Annotated[tuple[GoldenRun, ...], Field(min_length=1)]


@dataclass(frozen=True)
class ReplayResult:
    """A replay within tolerance: cases, calls of the model, and the largest difference."""

    cases: int
    calls: int
    largest_difference: float


@dataclass(frozen=True)
class GoldenInputs:
    """Made-up inputs by name, with the case axis first, and the seed that they came from."""

    arrays: Arrays
    seed: str

    @property
    def cases(self) -> int:
        """How many cases there are."""
        return len(next(iter(self.arrays.values())))


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
    """The two golden files, by their paths in the bundle.

    A made-up case that the model can't answer by itself is left out: all-zero input may divide by
    zero in a model that never meets it. Raises Refused (golden_unusable) when fewer than half are
    left, Refused (not_repeatable) when the runs differ by more than the contract's tolerance, and
    ModelFailure when a batch of answered cases fails, or the process dies.
    """
    inputs = _answerable(sandbox, inputs, contract)
    runs = []
    for batch in sorted({1, 7, inputs.cases}, reverse=True):
        order = _order(inputs.seed, batch, inputs.cases)
        scores = np.concatenate(list(_scores(sandbox, inputs.arrays, contract, batch, order)))
        runs.append(GoldenRun(batch=batch, order=order, scores=tuple(map(float, scores))))
    by_case = np.array([[score for _, score in sorted(zip(r.order, r.scores, strict=True))]
                        for r in runs])  # fmt: skip
    if float(np.ptp(by_case, axis=0).max()) > contract.tolerance:
        raise Refused(
            "the model is not repeatable: made-up cases got other scores in another order and "
            "batch size",
            code="not_repeatable",
        )
    golden = Golden(
        seed=inputs.seed,
        score=contract.score,
        inputs=tuple(
            GoldenInput(name=name, dtype=cast(DataType, array.dtype.name), shape=array.shape)
            for name, array in inputs.arrays.items()
        ),
        runs=tuple(runs),
    )
    little = (array.astype(array.dtype.newbyteorder("<")) for array in inputs.arrays.values())
    return {
        GOLDEN_INPUTS: b"".join(array.tobytes() for array in little),
        GOLDEN_EXPECTED: canonical(golden.model_dump(mode="json")),
    }


def replay(
    sandbox: Runner, files: Mapping[str, bytes], contract: Contract, tolerance: float
) -> ReplayResult:
    """Run the golden cases of `files` again, exactly as they were recorded.

    Raises Refused (golden_mismatch) beyond `tolerance`, Tampered (golden_malformed) when the files
    do not fit the contract, ModelFailure when the model fails on one.
    """
    golden, arrays = _parsed(files, contract)
    largest, calls = 0.0, 0
    for run in golden.runs:
        expected = np.array(run.scores)
        position = 0
        for scores in _scores(sandbox, arrays, contract, run.batch, run.order):
            there = expected[position : position + len(scores)]
            largest = max(largest, float(np.abs(scores - there).max()))
            position, calls = position + len(scores), calls + 1
            # Written so that a NaN, which no comparison admits, fails as well.
            if not largest <= tolerance:
                raise Refused(
                    f"a golden case answered at a distance of {largest:.3g} from what was "
                    f"recorded at the facility, where {tolerance:.3g} is allowed: this machine "
                    "does not compute what was certified; don't use it here",
                    code="golden_mismatch",
                )
    return ReplayResult(len(golden.runs[0].order), calls, largest)


def _answerable(sandbox: Runner, inputs: GoldenInputs, contract: Contract) -> GoldenInputs:
    """The cases that the model answers one by one."""
    usable = []
    for case in range(inputs.cases):
        try:
            list(_scores(sandbox, inputs.arrays, contract, 1, (case,)))
        except ModelFailure as failure:
            if failure.fatal:
                raise
        else:
            usable.append(case)
    if 2 * len(usable) < inputs.cases:
        raise Refused(
            f"the model answers {len(usable)} of {inputs.cases} made-up cases that its contract "
            "allows; state the inputs' minimum and maximum in the contract, or mend the model",
            code="golden_unusable",
        )
    return GoldenInputs({name: a[usable] for name, a in inputs.arrays.items()}, inputs.seed)


def _order(seed: str, batch: int, cases: int) -> tuple[int, ...]:
    """Cases by the hash of their number: another order for each batch size."""
    keys = [hashlib.sha256(f"{seed}/{batch}/{case}".encode()).digest() for case in range(cases)]
    return tuple(sorted(range(cases), key=keys.__getitem__))


def _scores(
    sandbox: Runner, arrays: Arrays, contract: Contract, batch: int, order: tuple[int, ...]
) -> Iterator[NDArray[np.float64]]:
    for start in range(0, len(order), batch):
        chosen = list(order[start : start + batch])
        outputs = sandbox.run({name: array[chosen] for name, array in arrays.items()})
        check_outputs(contract, outputs, len(chosen))
        yield numbers_of(contract, outputs)


def _parsed(files: Mapping[str, bytes], contract: Contract) -> tuple[Golden, Arrays]:
    """The golden files, checked against the contract before anything is run."""
    try:
        golden = Golden.model_validate(json.loads(files[GOLDEN_EXPECTED]))
    except KeyError as error:
        raise _malformed("they are not in the bundle") from error
    except (ValueError, RecursionError, ValidationError) as error:
        raise _malformed(f"{GOLDEN_EXPECTED} is not a golden record (v1)") from error
    declared = {tensor.name: (tensor.dtype, tensor.shape) for tensor in contract.inputs}
    if golden.score != contract.score or len(golden.inputs) != len(declared):
        raise _malformed("they are for another contract")
    cases = len(golden.runs[0].order)
    for tensor in golden.inputs:
        if declared.get(tensor.name) != (tensor.dtype, tensor.shape[1:]):
            raise _malformed(f"the input {tensor.name} is not the contract's")
        if tensor.shape[0] != cases:
            raise _malformed(f"the input {tensor.name} has another number of cases")
    for run in golden.runs:
        if sorted(run.order) != list(range(cases)) or len(run.scores) != cases:
            raise _malformed("a run does not score every case once")
    if cases == 0 or len({tensor.name for tensor in golden.inputs}) != len(declared):
        raise _malformed("there is no case, or an input twice")
    return golden, _arrays(golden.inputs, files.get(GOLDEN_INPUTS, b""))


def _arrays(inputs: tuple[GoldenInput, ...], data: bytes) -> Arrays:
    kinds = [np.dtype(tensor.dtype).newbyteorder("<") for tensor in inputs]
    sizes = [math.prod(t.shape) * kind.itemsize for t, kind in zip(inputs, kinds, strict=True)]
    if sum(sizes) != len(data):
        raise _malformed(f"{GOLDEN_INPUTS} has another size than its cases need")
    arrays, position = {}, 0
    for tensor, kind, size in zip(inputs, kinds, sizes, strict=True):
        part = np.frombuffer(data, kind, math.prod(tensor.shape), position)
        arrays[tensor.name] = part.reshape(tensor.shape).astype(tensor.dtype)
        position += size
    return arrays


def _malformed(reason: str) -> Tampered:
    return Tampered(f"the golden vectors can't be replayed: {reason}", code="golden_malformed")
