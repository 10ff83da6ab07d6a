"""The routes of a model: what it is, whether it is ready, and its answers.

Rules
-----
1. A body is read once, into a place's buffer; tensors are views of it until the sandbox has them.
2. What a request asks for is held against what the model's file declares; the rest is the model's.
3. A client that leaves gives up its turn.
"""

import asyncio
import math
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from registry.trust.errors import Invalid, NotFound
from serving.front import answer
from serving.inference import datatypes
from serving.inference.answers import Tensors, header_length, plain_encoding
from serving.inference.datatypes import DATATYPES, LARGEST_HEADER, LARGEST_JSON
from serving.inference.parts import Parts
from serving.inference.places import Place as Held
from serving.inference.places import declared_length, read_body
from serving.inference.protocol import Request as Asked
from serving.inference.protocol import gather, read_request, write_response
from serving.inference.resident import Resident
from serving.inference.rows import Place
from serving.inference.traces import Span
from serving.wire import LARGEST_BATCH
from validators.contract.description import ModelDescription, TensorDescription

_INLINE = 1 << 20
_ALIGNMENT = 64


class Inferring:
    """Handlers of /v2/models/{digest}…"""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def metadata(self, request: Request, _: Span) -> Response:
        """Names, types and shapes of inputs and outputs."""
        model = self._model(request)
        told = _description(model)
        return answer(
            {
                "name": model.digest,
                "versions": ["1"],
                "platform": "onnxruntime_onnx",
                "inputs": [_row(one) for one in told.inputs],
                "outputs": [_row(one) for one in told.outputs],
            }
        )

    async def configuration(self, request: Request, _: Span) -> Response:
        """The same, as Triton's model configuration has it."""
        model = self._model(request)
        told = _description(model)
        sides = {
            side: [
                {"name": r["name"], "data_type": f"TYPE_{r['datatype']}", "dims": r["shape"]}
                for r in map(_row, rows)
            ]
            for side, rows in (("input", told.inputs), ("output", told.outputs))
        }
        return answer(
            {
                "name": model.digest,
                "platform": "onnxruntime_onnx",
                "backend": "onnxruntime",
                "max_batch_size": 0,
                **sides,
            }
        )

    async def ready(self, request: Request, _: Span) -> Response:
        """Whether the model is loaded."""
        self._model(request)
        return answer({"ready": True})

    async def infer(self, request: Request, span: Span) -> Response:
        """One call of the model."""
        model = self._model(request)
        span.set_attribute("touchstone.model", model.digest)
        plain_encoding(request)
        limit = body_limit(_description(model), self._parts.settings.largest_body)
        length = declared_length(request.headers.get("content-length"), limit)
        head = header_length(request, length, LARGEST_HEADER)
        if head is None:
            head = declared_length(str(length), LARGEST_JSON)
        with self._parts.places.take() as place:
            # So that the first tensor is aligned in memory.
            start = -head % _ALIGNMENT
            body = place.body(start + length)[start:]
            with self._parts.traces.part("read"):
                began = time.perf_counter()
                await read_body(request.receive, body)
                self._parts.metrics.read(length, time.perf_counter() - began)
            asked = await _parsed(body[:head], length - head, limit)
            check_fit(_description(model), asked)
            with self._parts.traces.part("run"):
                began = time.perf_counter()
                outputs = await self._run(request, model, asked, body[head:], place)
                self._parts.metrics.ran(time.perf_counter() - began)
            return await self._answered(model, asked, outputs)

    async def _run(
        self, request: Request, model: Resident, asked: Asked, binary: memoryview, place: Held
    ) -> dict[str, NDArray[Any]]:
        regions = self._parts.regions
        places = [one.place for one in asked.inputs if one.place is not None]
        for one in [*places, *(w.place for w in asked.outputs or () if w.place is not None)]:
            regions.check(one)
        copies = place.copies(sum(_padded(one.size) for one in places))

        def inputs() -> dict[str, NDArray[Any]]:
            left = copies

            def read(one: Place) -> memoryview:
                nonlocal left
                into, left = left[: one.size], left[_padded(one.size) :]
                regions.read(one, into)
                return into

            return gather(asked, binary, read)

        names = None if asked.outputs is None else [one.name for one in asked.outputs]
        running = asyncio.ensure_future(model.run(inputs, names))
        leaving = asyncio.ensure_future(request.receive())
        try:
            await asyncio.wait({running, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                raise ClientDisconnect
            return running.result()
        finally:
            for task in (running, leaving):
                task.cancel()

    async def _answered(
        self, model: Resident, asked: Asked, outputs: dict[str, NDArray[Any]]
    ) -> Response:
        header, parts, placed = write_response(model.digest, asked, outputs)
        for place, data in placed:
            if len(data) <= _INLINE:
                self._parts.regions.write(place, data)
            else:
                await asyncio.to_thread(self._parts.regions.write, place, data)
        if parts:
            return Tensors(header, parts)
        return Response(header, media_type="application/json")

    def _model(self, request: Request) -> Resident:
        if request.path_params.get("version", "1") != "1":
            raise NotFound("a model has the version 1 alone: its digest names it")
        return self._parts.repository.model(request.path_params["digest"])


def body_limit(told: ModelDescription, largest: int) -> int:
    """The largest body that LARGEST_BATCH cases can need; `largest` where shapes are open."""
    needed = LARGEST_JSON
    for tensor in told.inputs:
        rest = [] if tensor.shape is None else tensor.shape[1:]
        sizes = [size for size in rest if isinstance(size, int)]
        if tensor.shape is None or len(sizes) != len(rest) or tensor.dtype not in DATATYPES:
            return largest
        needed += LARGEST_BATCH * datatypes.bytes_of(DATATYPES[tensor.dtype], tuple(sizes))
    return min(largest, needed)


def check_fit(told: ModelDescription, asked: Asked) -> None:
    """Raise Invalid (input_unfit) where a request can't be what the model's file declares."""
    declared = {one.name: one for one in told.inputs}
    if {one.name for one in asked.inputs} != set(declared):
        raise Invalid(f"the inputs must be exactly {', '.join(declared)}", code="input_unfit")
    for one in asked.inputs:
        tensor = declared[one.name]
        fits = tensor.shape is None or (
            len(tensor.shape) == len(one.shape)
            and all(
                not isinstance(size, int) or size == given
                for size, given in zip(tensor.shape, one.shape, strict=True)
            )
        )
        # A type that the model's own holds is cast where the model is: images come as uint8.
        if not fits or not _holds(tensor, one.datatype):
            row = _row(tensor)
            raise Invalid(
                f"the input {tensor.name} must be {row['datatype']} of shape {row['shape']}",
                code="input_unfit",
            )
    outputs = {one.name for one in told.outputs}
    if not {one.name for one in asked.outputs or ()} <= outputs:
        raise Invalid(f"the outputs are {', '.join(sorted(outputs))}", code="input_unfit")


def _holds(tensor: TensorDescription, datatype: str) -> bool:
    given = datatypes.dtype_of(datatype)
    return tensor.dtype in DATATYPES and bool(np.can_cast(given, np.dtype(tensor.dtype)))


async def _parsed(header: memoryview, binary_length: int, limit: int) -> Asked:
    if len(header) <= _INLINE // 16:
        return read_request(header, binary_length, limit)
    return await asyncio.to_thread(read_request, header, binary_length, limit)


def _description(model: Resident) -> ModelDescription:
    assert model.session is not None
    return model.session.info.description


def _row(tensor: TensorDescription) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else -1 for size in tensor.shape or ()]
    return {
        "name": tensor.name,
        "datatype": DATATYPES.get(tensor.dtype, "unknown"),
        "shape": shape,
    }


def _padded(size: int) -> int:
    return math.ceil(size / _ALIGNMENT) * _ALIGNMENT
