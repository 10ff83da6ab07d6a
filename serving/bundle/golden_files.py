"""What lies in golden/ of a bundle, and how it is read: checked against the contract first.

Rules
-----
1. `golden/expected.json` names the schema, the seed, a tolerance for each execution provider, each
   input's dtype and shape with the case axis first, and each run's batch size, order of cases and
   scores in that order; then the same of the raw cases, or why there are none.
2. `golden/inputs.bin` is a block of little-endian numbers. `golden/raw/CASE/INPUT/…` are the files
   of a raw case, by the number of the input in the contract. `golden/maps.bin` and
   `golden/raw/maps.bin` are maps of labels, one byte a voxel, deflated. Nothing is unpickled.
3. Whatever does not fit the contract, is missing, or is there and not named, is Tampered.
"""

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from registry.trust.errors import Tampered
from serving.bundle.layout import (
    GOLDEN_EXPECTED,
    GOLDEN_INPUTS,
    GOLDEN_MAPS,
    GOLDEN_RAW,
    GOLDEN_RAW_MAPS,
)
from validators.contract.schema import Contract, DataType, Name, Strict

Arrays = Mapping[str, NDArray[Any]]
LEAST_DICE = 0.99
"""Of each structure in two answers that count as the same."""


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


class RawCase(Strict):
    """A case whose images are files in golden/raw/`folder`, its other inputs `row` of the block."""

    folder: Annotated[int, Field(ge=0)]
    row: Annotated[int, Field(ge=0)]


class Golden(Strict):
    """golden/expected.json."""

    schema_id: Literal["touchstone/golden/v2"] = "touchstone/golden/v2"
    seed: str
    score: Name
    tolerances: dict[str, Annotated[float, Field(ge=0, le=0.01)]]
    """By execution provider: largest difference of a score, or part of a map's voxels."""
    least_dice: Annotated[float, Field(ge=0, le=1)] | None
    """Of a map of labels: the least Dice of a structure; None where the score is a number."""
    inputs: tuple[GoldenInput, ...]
    runs: Annotated[tuple[GoldenRun, ...], Field(min_length=1)]
    raw: tuple[RawCase, ...] = ()
    raw_runs: tuple[GoldenRun, ...] = ()
    no_raw: str = ""
    """Why there are no raw cases, where the contract begins at images."""


def parsed(files: Mapping[str, bytes], contract: Contract) -> tuple[Golden, Arrays]:
    """The record and the block of inputs, checked against the contract before anything is run."""
    try:
        golden = Golden.model_validate(json.loads(files[GOLDEN_EXPECTED]))
    except KeyError as error:
        raise malformed("they are not in the bundle") from error
    except (ValueError, RecursionError, ValidationError) as error:
        raise malformed(f"{GOLDEN_EXPECTED} is not a golden record (v2)") from error
    declared = {tensor.name: (tensor.dtype, tensor.shape) for tensor in contract.inputs}
    if golden.score != contract.score or len(golden.inputs) != len(declared):
        raise malformed("they are for another contract")
    if (golden.least_dice is None) != (contract.reference is None):
        raise malformed("they compare another kind of answer than the contract's")
    cases = len(golden.runs[0].order)
    for tensor in golden.inputs:
        if declared.get(tensor.name) != (tensor.dtype, tensor.shape[1:]):
            raise malformed(f"the input {tensor.name} is not the contract's")
        if tensor.shape[0] != cases:
            raise malformed(f"the input {tensor.name} has another number of cases")
    _check_runs(golden.runs, cases)
    if cases == 0 or len({tensor.name for tensor in golden.inputs}) != len(declared):
        raise malformed("there is no case, or an input twice")
    _check_raw(golden, files, contract, cases)
    return golden, _arrays(golden.inputs, files.get(GOLDEN_INPUTS, b""))


def raw_files(
    files: Mapping[str, bytes], contract: Contract, case: RawCase
) -> dict[str, dict[str, bytes]]:
    """{image input: {file name: bytes}} of a raw case."""
    found = {}
    for number, tensor in enumerate(contract.inputs):
        if tensor.image is not None:
            prefix = raw_prefix(case.folder, number)
            found[tensor.name] = {
                path.removeprefix(prefix): data
                for path, data in sorted(files.items())
                if path.startswith(prefix)
            }
    return found


def raw_prefix(folder: int, number: int) -> str:
    """The folder of one image of a raw case; `number` is the input's in the contract."""
    return f"{GOLDEN_RAW}{folder}/{number}/"


def packed_maps(maps: NDArray[np.uint8]) -> bytes:
    """Maps of labels, as they lie in a bundle."""
    return zlib.compress(maps.tobytes(), 9)


def maps_in(data: bytes | None, cases: int, contract: Contract) -> NDArray[np.uint8]:
    """[cases, voxels]; unpacked no further than the contract's shape needs."""
    tensor = next(t for t in contract.outputs if t.name == contract.score)
    size = cases * math.prod(tensor.shape)
    unpacking = zlib.decompressobj()
    try:
        plain = unpacking.decompress(data or b"", size + 1)
    except zlib.error as error:
        raise malformed("the maps of labels are damaged") from error
    if len(plain) != size or not unpacking.eof or unpacking.unused_data:
        raise malformed("the maps of labels have another size than their cases need")
    return np.frombuffer(plain, np.uint8).reshape(cases, -1)


def malformed(reason: str) -> Tampered:
    """What is raised for golden vectors that are not as they should be."""
    return Tampered(f"the golden vectors can't be replayed: {reason}", code="golden_malformed")


def _check_runs(runs: Sequence[GoldenRun], cases: int) -> None:
    for run in runs:
        if sorted(run.order) != list(range(cases)) or len(run.scores) != cases:
            raise malformed("a run does not score every case once")


def _check_raw(golden: Golden, files: Mapping[str, bytes], contract: Contract, cases: int) -> None:
    images = [n for n, tensor in enumerate(contract.inputs) if tensor.image is not None]
    if bool(golden.raw) != bool(golden.raw_runs) or bool(golden.raw) == bool(golden.no_raw):
        if images or golden.raw or golden.raw_runs or golden.no_raw:
            raise malformed("the raw cases are not told of as they must be")
    elif not images:
        raise malformed("the contract takes no images, and there are raw cases")
    if any(case.row >= cases for case in golden.raw):
        raise malformed("a raw case names an input that is not there")
    _check_runs(golden.raw_runs, len(golden.raw))
    prefixes = [raw_prefix(case.folder, number) for case in golden.raw for number in images]
    paths = {path for path in files if path.startswith(GOLDEN_RAW)} - {GOLDEN_RAW_MAPS}
    named = {path for prefix in prefixes for path in paths if path.startswith(prefix)}
    filled = {prefix for prefix in prefixes if any(path.startswith(prefix) for path in paths)}
    if len(set(prefixes)) != len(prefixes) or filled != set(prefixes) or named != paths:
        raise malformed("the files of the raw cases are not those that are named")
    maps = {GOLDEN_MAPS: contract.reference is not None,
            GOLDEN_RAW_MAPS: contract.reference is not None and bool(golden.raw)}  # fmt: skip
    if any((path in files) != wanted for path, wanted in maps.items()):
        raise malformed("maps of labels are missing, or there without being asked for")


def _arrays(inputs: tuple[GoldenInput, ...], data: bytes) -> Arrays:
    kinds = [np.dtype(tensor.dtype).newbyteorder("<") for tensor in inputs]
    sizes = [math.prod(t.shape) * kind.itemsize for t, kind in zip(inputs, kinds, strict=True)]
    if sum(sizes) != len(data):
        raise malformed(f"{GOLDEN_INPUTS} has another size than its cases need")
    arrays, position = {}, 0
    for tensor, kind, size in zip(inputs, kinds, sizes, strict=True):
        part = np.frombuffer(data, kind, math.prod(tensor.shape), position)
        arrays[tensor.name] = part.reshape(tensor.shape).astype(tensor.dtype)
        position += size
    return arrays
