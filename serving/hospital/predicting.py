"""Predictions: from a request's tensors or images to scores, by one certificate.

Rules
-----
1. The standing is asked for before a body is read and again before the scores are answered: what
   is revoked meanwhile is not answered.
2. A request holds a place of the worker from before its body is read until it is answered.
3. What the pilot's monitoring is told of is put aside after the model has answered.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from registry.trust.errors import Invalid, NotFound, TouchstoneError
from serving import wire
from serving.front import answer
from serving.hospital.bodies import (
    BODY_SECONDS,
    FORM,
    IMAGES_SECONDS,
    JSON,
    OCTETS,
    RELATED,
    kind_of,
    read_body,
)
from serving.hospital.deployment import Deployment
from serving.hospital.parts import Parts
from serving.hospital.telling import score_of, summary_of
from serving.inference.answers import HEADER_LENGTH, Tensors, header_length
from serving.inference.datatypes import LARGEST_HEADER
from serving.inference.protocol import Request as Asked
from serving.inference.protocol import gather, read_request, write_response
from serving.inference.rows import Place
from serving.inference.traces import Span
from serving.pilot.prediction import Prediction

_INLINE_BYTES = 64 << 10
_LARGE_INPUT = 1 << 20

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Given:
    """What a request asks about: inputs that fit the contract, and the names of their cases.

    told: what the answer repeats of it: an id, or how the images were grouped into cases.
    """

    inputs: Arrays = field(repr=False)
    names: tuple[str | None, ...] | None = field(default=None, repr=False)
    told: Mapping[str, Any] = field(default_factory=dict, repr=False)
    asked: Asked | None = field(default=None, repr=False)

    @property
    def cases(self) -> int:
        """How many cases there are."""
        return len(next(iter(self.inputs.values())))


class Predicting:
    """Handlers that predict."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def predict(self, request: Request, span: Span) -> Response:
        """One score (or map of labels) a case, for named inputs or for images."""
        with self._parts.stage.use() as deployment:
            contract = deployment.contract
            deployment.require_in_force()
            images = self._parts.readers.takes(contract)
            kind = kind_of(request, JSON, *((FORM, RELATED) if images else ()))
            began = time.perf_counter()
            with deployment.worker.place():
                if kind == JSON:
                    given = await self._tensors(request, deployment)
                else:
                    given = await self._images(request, deployment)
                scores = await self._scored(deployment, given, began, span)
            value: dict[str, Any] = {"outputs": {contract.score: scores.tolist()}}
            return answer(value | dict(given.told) | deployment.marks())

    async def infer(self, request: Request, span: Span) -> Response:
        """Inference of the Open Inference Protocol, with tensors as JSON or in binary."""
        with self._parts.stage.use() as deployment:
            check_name(deployment, request)
            deployment.require_in_force()
            binary = HEADER_LENGTH in request.headers
            # Stock clients name no type beside the header's length.
            kind_of(request, *((OCTETS, JSON, "") if binary else (JSON,)))
            began = time.perf_counter()
            with deployment.worker.place():
                if binary:
                    given = await self._binary(request, deployment)
                else:
                    given = await self._protocol(request, deployment)
                scores = await self._scored(deployment, given, began, span)
            return _protocol_answer(deployment, given, scores)

    async def _tensors(self, request: Request, deployment: Deployment) -> Given:
        contract = deployment.contract
        body = await self._read(request, wire.body_limit(contract))

        def decode() -> Given:
            value = wire.parse(contract, body)
            inputs = wire.named_inputs(contract, value)
            names = wire.case_names(value.get("cases"), len(next(iter(inputs.values()))))
            return Given(inputs, names, {} if names is None else {"cases": list(names)})

        return decode() if len(body) <= _INLINE_BYTES else await asyncio.to_thread(decode)

    async def _protocol(self, request: Request, deployment: Deployment) -> Given:
        contract = deployment.contract
        body = await self._read(request, wire.body_limit(contract))

        def decode() -> Given:
            value = wire.parse(contract, body)
            wire.wanted_outputs(contract, value)
            inputs = wire.protocol_inputs(contract, value)
            known = value.get("id")
            return Given(inputs, told={"id": known} if isinstance(known, str) else {})

        return decode() if len(body) <= _INLINE_BYTES else await asyncio.to_thread(decode)

    async def _binary(self, request: Request, deployment: Deployment) -> Given:
        contract = deployment.contract
        limit = wire.binary_limit(contract)
        body = memoryview(await self._read(request, limit + LARGEST_HEADER))
        head = header_length(request, len(body), LARGEST_HEADER)
        assert head is not None

        def decode() -> Given:
            asked = read_request(body[:head], len(body) - head, limit)
            if any(wanted.name != contract.score for wanted in asked.outputs or ()):
                raise Invalid(f"the only output is {contract.score}", code="bad_request")
            if any(wanted.place is not None for wanted in asked.outputs or ()):
                _no_region(None)
            inputs = wire.fitting(contract, gather(asked, body[head:], _no_region))
            return Given(inputs, asked=asked)

        return decode() if len(body) <= _INLINE_BYTES else await asyncio.to_thread(decode)

    async def _images(self, request: Request, deployment: Deployment) -> Given:
        readers, contract = self._parts.readers, deployment.contract
        with readers.place():
            body = await self._read(request, readers.largest_body, IMAGES_SECONDS)
            content_type = request.headers["content-type"]
            with self._parts.traces.part("decode"):
                read = await readers.read(contract, content_type, body)
        inputs = wire.fitting(contract, read.inputs)
        return Given(inputs, read.names, {"cases": read.told})

    async def _read(self, request: Request, limit: int, seconds: float = BODY_SECONDS) -> bytearray:
        with self._parts.traces.part("read"):
            began = time.perf_counter()
            body = await read_body(request, limit, seconds)
            self._parts.metrics.read(len(body), time.perf_counter() - began)
        return body

    async def _scored(
        self, deployment: Deployment, given: Given, began: float, span: Span
    ) -> NDArray[Any]:
        span.set_attribute("touchstone.certificate", deployment.statement)
        span.set_attribute("touchstone.cases", given.cases)
        try:
            with self._parts.traces.part("run"):
                start = time.perf_counter()
                scores = await deployment.worker.score(given.inputs)
                self._parts.metrics.ran(time.perf_counter() - start)
        except TouchstoneError as error:
            await self._tell(deployment, given, None, time.perf_counter() - began, error.code)
            raise
        deployment.require_in_force()
        await self._tell(deployment, given, scores, time.perf_counter() - began)
        return scores

    async def _tell(
        self,
        deployment: Deployment,
        given: Given,
        scores: NDArray[Any] | None,
        seconds: float,
        failure: str = "",
    ) -> None:
        telling = self._parts.telling
        if telling is None:
            return
        arguments = (deployment, given, scores, seconds, failure)
        if sum(array.nbytes for array in given.inputs.values()) <= _LARGE_INPUT:
            telling.tell(_predictions(*arguments))
        else:
            telling.tell(await asyncio.to_thread(_predictions, *arguments))


def check_name(deployment: Deployment, request: Request) -> None:
    """Raise NotFound where the path names another model or version than is served."""
    version = str(deployment.predicate.model.version)
    given = request.path_params
    if given["name"] not in deployment.names or given.get("version", version) != version:
        raise NotFound("no model of this name and version is served here")


def _predictions(
    deployment: Deployment,
    given: Given,
    scores: NDArray[Any] | None,
    seconds: float,
    failure: str,
) -> Sequence[Prediction]:
    names = given.names or (None,) * given.cases
    moment, score = deployment.clock(), deployment.contract.score
    return [
        Prediction(
            certificate=deployment.statement,
            moment=moment,
            scores={} if scores is None else {score: score_of(scores[case])},
            seconds=seconds,
            case=name,
            inputs=summary_of(given.inputs, case),
            failure=failure,
        )
        for case, name in enumerate(names)
    ]


def _protocol_answer(deployment: Deployment, given: Given, scores: NDArray[Any]) -> Response:
    contract, model = deployment.contract, deployment.predicate.model
    score = next(t for t in contract.outputs if t.name == contract.score)
    shaped = scores.reshape(len(scores), *score.shape)
    if given.asked is not None:
        header, parts, _ = write_response(
            model.name,
            given.asked,
            {score.name: shaped.astype(score.dtype, copy=False)},
            version=str(model.version),
            parameters=deployment.marks(),
        )
        return Tensors(header, parts) if parts else Response(header, media_type=JSON)
    output = {
        "name": score.name,
        "datatype": wire.DATATYPES[score.dtype],
        "shape": list(shaped.shape),
        "data": scores.reshape(-1).tolist(),
    }
    return answer(
        {
            "model_name": model.name,
            "model_version": str(model.version),
            "outputs": [output],
            "parameters": deployment.marks(),
            **given.told,
        }
    )


def _no_region(_: Place | None) -> memoryview:
    raise Invalid("shared memory is not lent to this server", code="bad_request")
