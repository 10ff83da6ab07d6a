"""The trusted side of one locked reading process: files in, tensors out, once.

    process = start(limits)
    answered = read(process, limits, contract, files, most)

Rules
-----
1. What comes back is held against the contract before anything of it is used: names, types and
   shapes of the contract's images, one number of cases.
2. Whatever the process did wrong is one outcome: the files can't be read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid, Refused, Unavailable
from serving.problems import TooLarge
from serving.sandbox import framing
from serving.sandbox.failures import ModelFailure, plain_text
from serving.sandbox.launch import LockedProcess
from serving.sandbox.limits import Limits
from validators.contract.schema import Contract

PROGRAM: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from serving.reading.child import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)
LIMITS: Final = Limits(wall_seconds=120.0, cpu_seconds=120, output_bytes=512 << 20)
_WHY: Final = {
    "model_timeout": "it took too long",
    "model_out_of_memory": "it takes more memory than is allowed",
}
_CODES: Final = ("input_image", "input_modality", "input_names")


@dataclass(frozen=True)
class File:
    """One file of a request; case None and input "" where the sender did not say."""

    data: memoryview = field(repr=False)
    case: int | None
    input: str


@dataclass(frozen=True)
class Answered:
    """Image tensors by input, the files of each case by number, and what was noticed of each."""

    tensors: dict[str, NDArray[Any]] = field(repr=False)
    files: tuple[tuple[int, ...], ...]
    noticed: tuple[tuple[str, ...], ...]


def start(limits: Limits = LIMITS, *, landlock_abi: int = 1 << 16) -> LockedProcess:
    """A locked process that has read nothing yet. Raises Refused (sandbox_unavailable)."""
    process = LockedProcess(limits, landlock_abi, program=PROGRAM)
    if not process.level["seccomp"]:
        process.close()
        raise Refused(
            "this system offers no seccomp, so files of any origin can't be read here: install "
            "libseccomp2, or send tensors",
            code="sandbox_unavailable",
        )
    return process


def most_cases(contract: Contract, limits: Limits = LIMITS, largest: int = 256) -> int:
    """How many cases a request may hold: as many as the tensors of an answer may take."""
    a_case = sum(
        int(np.prod(t.shape, dtype=object)) * np.dtype(t.staged_type).itemsize
        for t in contract.inputs
        if t.image is not None
    )
    return max(1, min(largest, limits.output_bytes // max(1, a_case)))


def read(
    process: LockedProcess, contract: Contract, files: Sequence[File], limits: Limits = LIMITS
) -> Answered:
    """Have the files read; the process is gone afterwards.

    Raises Invalid (input_image, input_modality, input_names, unreadable), TooLarge.
    """
    asked = {
        "contract": contract.model_dump(mode="json"),
        "most": most_cases(contract, limits),
        "files": [[file.case, file.input, len(file.data)] for file in files],
    }
    try:
        process.send(asked, [file.data for file in files], limits.wall_seconds)
        header, payload = process.receive(limits.wall_seconds, tell_reasons=False)
    except framing.ProtocolError as error:
        raise TooLarge("the request holds too many files") from error
    except ModelFailure as failure:
        why = _WHY.get(failure.code, "the process that read them ended")
        raise Invalid(
            f"the images can't be read: {why}; check the files", code="unreadable"
        ) from failure
    finally:
        process.close()
    if "refused" in header:
        code = header.get("code")
        raise Invalid(
            plain_text(str(header["refused"]), 300), code=code if code in _CODES else "input_image"
        )
    try:
        return _checked(contract, header, payload, len(files))
    except (framing.ProtocolError, KeyError, TypeError, ValueError) as error:
        raise Unavailable("the images could not be read", code="reading_failed") from error


def _checked(contract: Contract, header: dict[str, Any], payload: bytearray, sent: int) -> Answered:
    images = {t.name: t for t in contract.inputs if t.image is not None}
    files = tuple(tuple(int(number) for number in row) for row in header["files"])
    noticed = tuple(
        tuple(plain_text(str(note)) for note in row[: len(images)]) for row in header["noticed"]
    )
    if any(not 0 <= number < sent for row in files for number in row):
        raise ValueError("a file that was not sent")
    rows = framing.tensor_rows(header["outputs"], len(payload))
    tensors, position = {}, 0
    for name, dtype, shape, size in rows:
        if dtype != images[name].staged_type or shape != (len(files), *images[name].shape):
            raise ValueError("a tensor that the contract lacks")
        kind = "uint8" if dtype == "bool" else dtype
        array = np.frombuffer(payload, kind, size // np.dtype(kind).itemsize, position)
        tensors[name] = (array != 0 if dtype == "bool" else array).reshape(shape)
        position += size
    if set(tensors) != set(images) or len(noticed) != len(files):
        raise ValueError("an image is missing")
    return Answered(tensors, files, noticed)
