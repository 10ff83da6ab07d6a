"""The model inside the locked process: inspected, loaded, run."""

import math
from typing import Any

import numpy as np
import onnxruntime

from serving.sandbox.binding import run_bound
from serving.sandbox.framing import DTYPES, tensor_rows
from serving.sandbox.inspection import inspect
from serving.sandbox.providers import CPU, Provider, WrongProvider, open_session
from serving.sandbox.refusal import Refusal
from serving.sandbox.shared import SLOT, offsets

_NAMES = {
    f"tensor({theirs})": ours
    for theirs, ours in (("float", "float32"), ("double", "float64"), ("int32", "int32"),
                         ("int64", "int64"), ("int16", "int16"))
}  # fmt: skip
"""The types of a model's inputs that others are cast to, as onnxruntime calls them."""
_KEPT_CASTS = 8


class Model:
    """At most one session at a time, on one thread, with everything fixed that moves bits."""

    def __init__(self, shared: Any, provider: Provider = CPU) -> None:
        self._shared = shared
        self._provider = provider
        self._session: Any = None
        self._outputs: list[str] = []
        self._types: dict[str, str] = {}
        self._casts: dict[tuple[str, tuple[int, ...]], Any] = {}

    def inspect(self, files: list[list[Any]], payload: bytearray) -> dict[str, Any]:
        """The description of the model in `payload`; raises Refusal."""
        description, _ = inspect(_split(files, payload), sketch=True)
        return description

    def load(self, files: list[list[Any]], payload: bytearray) -> dict[str, Any]:
        """Inspect and open the model; raises Refusal, or whatever onnxruntime raises."""
        description, data = inspect(_split(files, payload))
        del payload
        try:
            session = open_session(onnxruntime, data, self._provider)
        except WrongProvider as error:
            raise Refusal("wrong_provider", str(error)) from None
        self._session = session
        self._outputs = [output.name for output in session.get_outputs()]
        self._types = {of.name: _NAMES.get(of.type, "") for of in session.get_inputs()}
        return {"providers": [self._provider.name], "description": description}

    def run(
        self, rows: list[list[Any]], outputs: list[str] | None, payload: bytearray, slot: int
    ) -> tuple[list[list[Any]], list[Any]]:
        """One call: output rows [name, dtype, shape] and their buffers.

        Inputs lie in the payload, or in that slot of the memory where the payload is empty.
        """
        total = sum(DTYPES[dtype] * math.prod(shape) for _, dtype, shape in rows)
        checked = tensor_rows(rows, total)
        source, base = (payload, 0) if payload else (self._shared, slot * SLOT)
        feeds = {}
        for (name, dtype, shape, size), offset in zip(
            checked, offsets([row[3] for row in checked]), strict=False
        ):
            flat = np.frombuffer(source, dtype, size // DTYPES[dtype], base + offset)
            feeds[name] = self._cast(name, flat.reshape(shape))
        wanted = self._outputs if outputs is None else outputs
        if self._provider.on_device:
            place = self._provider.place
            answered = run_bound(self._session, feeds, wanted, place)
        else:
            answered = self._session.run(wanted, feeds)
        out_rows, parts = [], []
        for name, array in zip(wanted, answered, strict=True):
            plain = np.ascontiguousarray(array)
            out_rows.append([name, plain.dtype.name, list(array.shape)])
            parts.append(plain.reshape(-1).view(np.uint8).data)
        return out_rows, parts

    def _cast(self, name: str, array: Any) -> Any:
        """The input in the model's own type: images come as they lie in a shard, often uint8.

        The array that it is cast into is kept: fresh pages cost as much as the cast.
        """
        wanted = self._types.get(name, "")
        if not wanted or array.dtype.name == wanted or not np.can_cast(array.dtype, wanted):
            return array
        place = (name, array.shape)
        if place not in self._casts:
            if len(self._casts) >= _KEPT_CASTS:
                self._casts.clear()
            self._casts[place] = np.empty(array.shape, wanted)
        np.copyto(self._casts[place], array)
        return self._casts[place]


def _split(files: list[list[Any]], payload: bytearray) -> dict[str, memoryview]:
    view = memoryview(payload)
    split, position = {}, 0
    for name, size in files:
        split[name] = view[position : position + size]
        position += size
    return split
