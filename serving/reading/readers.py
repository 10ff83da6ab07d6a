"""Reading processes at hand: one is always started ahead, each reads one request and ends.

    readers = Readers(largest_body=512 << 20)
    with readers.place():
        given = await readers.read(contract, content_type, body)

Rules
-----
1. A process that has read a patient's files never reads another's.
2. At most `PLACES` requests with images are held at once, their bodies included; the next one is
   turned away.
3. The first process is started when the first image comes: who sends tensors pays nothing.
"""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from serving.problems import Busy
from serving.reading.form import Form, read_form
from serving.reading.process import Answered, most_cases, read, start
from serving.sandbox.launch import LockedProcess
from validators.contract.schema import Contract

PLACES: Final = 2


@dataclass(frozen=True)
class Images:
    """Inputs in the contract's names; the cases' names; what the answer tells of each case."""

    inputs: dict[str, NDArray[Any]] = field(repr=False)
    names: tuple[str, ...] | None = field(repr=False)
    told: list[dict[str, Any]] = field(repr=False)


class Readers:
    """`largest_body`: bytes of one request with images."""

    def __init__(self, largest_body: int) -> None:
        self.largest_body = largest_body
        self._free = PLACES
        self._threads = ThreadPoolExecutor(PLACES + 1, thread_name_prefix="reading")
        self._spare: Future[LockedProcess] | None = None
        self._closed = False
        self._lock = threading.Lock()

    @staticmethod
    def takes(contract: Contract) -> bool:
        """Whether requests may hold images: the contract has one and no mask."""
        forms = [tensor.image for tensor in contract.inputs if tensor.image is not None]
        return bool(forms) and not any(form.mask for form in forms)

    def told(self, contract: Contract) -> dict[str, Any] | None:
        """What a client may send, for the label; None where it can't be images."""
        if not self.takes(contract):
            return None
        return {"largest_body": self.largest_body, "largest_batch": most_cases(contract)}

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """One of the places, held from before the body is read; raises Busy."""
        if self._free <= 0:
            raise Busy("too many requests with images are being read; try again in a moment")
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1

    async def read(self, contract: Contract, content_type: str, body: bytearray) -> Images:
        """The inputs of a multipart body. Raises Invalid, TooLarge, UnsupportedType, Refused."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._read, contract, content_type, body)

    def close(self) -> None:
        """End the process at hand."""
        with self._lock:
            self._closed = True
            spare, self._spare = self._spare, None
        if spare is not None:
            with contextlib.suppress(Exception):
                spare.result().close()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _read(self, contract: Contract, content_type: str, body: bytearray) -> Images:
        form = read_form(contract, content_type, body)
        return combined(contract, form, read(self._process(), contract, form.files))

    def _process(self) -> LockedProcess:
        with self._lock:
            spare, self._spare = self._spare, None
        process = start() if spare is None else spare.result()
        with self._lock:
            if not self._closed and self._spare is None:
                self._spare = self._threads.submit(start)
        return process


def combined(contract: Contract, form: Form, answered: Answered) -> Images:
    """The images as they were read, and the numbers of the form, case by case."""
    cases = len(answered.files)
    if form.names is not None and cases != len(form.names):
        raise Invalid("each case needs its image", code="input_names")
    numbers = dict(form.numbers)
    if any(len(array) != cases for array in numbers.values()):
        raise Invalid("each case needs its image and its numbers", code="input_names")
    inputs = {
        tensor.name: answered.tensors[tensor.name]
        if tensor.image is not None
        else np.asarray(numbers[tensor.name])
        for tensor in contract.inputs
    }
    told = []
    for number, (files, noticed) in enumerate(zip(answered.files, answered.noticed, strict=True)):
        row: dict[str, Any] = {"files": list(files)}
        if form.names is not None:
            row["case"] = form.names[number]
        if noticed:
            row["noticed"] = list(noticed)
        told.append(row)
    return Images(inputs, form.names, told)
