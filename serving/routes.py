"""What a hospital's systems ask of a served model: health, label, predictions.

Rules
-----
1. Every path that is not listed here is refused: see serving.front.
2. A body is JSON, of bounded size, read in bounded time; nothing else is decoded, ever.
3. Every answer that holds a score says: investigational, in which mode, by which certificate.
4. After the certificate's last day nothing is answered but health and label.
5. No route logs or repeats an input or a score of another request.
"""

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from registry.trust.errors import NotFound, Refused, Unavailable
from serving import wire
from serving.bundle.verify import VerifyResult
from serving.front import Handler, answer, application
from serving.problems import TooLarge, TooSlow, UnsupportedType
from serving.worker import Scores, Worker

BODY_SECONDS = 60.0
_INLINE_BYTES = 64 << 10

Clock = Callable[[], dt.datetime]


class Endpoints:
    """The handlers for one verified bundle and the worker that runs its model."""

    def __init__(self, verified: VerifyResult, worker: Worker, clock: Clock) -> None:
        assert verified.certificate is not None
        self._predicate = verified.certificate.predicate
        self._verified, self._worker, self._clock = verified, worker, clock
        self._contract = worker.contract
        self._limit = wire.body_limit(worker.contract)
        model = self._predicate.model
        self._names = {model.name, f"{model.organisation}.{model.name}"}

    def app(self) -> Starlette:
        """The application with these routes and no other."""
        one = "/v2/models/{name}"
        gets: dict[str, Handler] = {
            "/health/live": self.live,
            "/health/ready": self.ready,
            "/v1/model": self.model,
            "/v2": self.server,
            "/v2/health/live": self.live,
            "/v2/health/ready": self.ready,
            one: self.protocol_model,
            one + "/ready": self.protocol_ready,
        }
        posts: dict[str, Handler] = {"/v1/predict": self.predict, one + "/infer": self.infer}
        return application(
            {
                (method, path): handler
                for method, handlers in (("GET", gets), ("POST", posts))
                for path, handler in handlers.items()
            }
        )

    async def live(self, _: Request) -> Response:
        """The process answers."""
        return answer({"live": True})

    async def ready(self, _: Request) -> Response:
        """A prediction would be answered now."""
        self._check_in_force()
        if not self._worker.ready:
            raise Unavailable("the model is being started", code="not_ready")
        return answer({"ready": True})

    async def model(self, _: Request) -> Response:
        """The label: what this is, what it is for, and until when."""
        predicate = self._predicate
        return answer(
            {
                **self._marks(),
                "model": predicate.model.model_dump(mode="json"),
                "facility": predicate.facility,
                "verdict": predicate.overall,
                "conditions": list(predicate.conditions),
                "intended_use": predicate.intended_use.model_dump(mode="json"),
                "protocol": predicate.protocol.model_dump(mode="json"),
                "cohort": predicate.cohort.model_dump(mode="json"),
                "not_after": predicate.model_dump(mode="json")["not_after"],
                "in_force": self._clock() < predicate.not_after,
                "contract": self._contract.model_dump(mode="json"),
                "largest_batch": wire.LARGEST_BATCH,
                "largest_body": self._limit,
            }
        )

    async def predict(self, request: Request) -> Response:
        """One score (or map of labels) a case for named inputs."""
        scores, _ = await self._scored(request, wire.named_inputs)
        return answer({"outputs": {self._contract.score: scores.tolist()}, **self._marks()})

    async def server(self, _: Request) -> Response:
        """Server metadata of the Open Inference Protocol."""
        return answer({"name": "touchstone", "version": "1", "extensions": []})

    async def protocol_model(self, request: Request) -> Response:
        """Model metadata of the Open Inference Protocol."""
        self._check_name(request)
        sides = {
            side: [
                {"name": t.name, "datatype": wire.DATATYPES[t.dtype], "shape": [-1, *t.shape]}
                for t in tensors
            ]
            for side, tensors in (
                ("inputs", self._contract.inputs),
                ("outputs", [t for t in self._contract.outputs if t.name == self._contract.score]),
            )
        }
        model = self._predicate.model
        return answer(
            {"name": model.name, "versions": [str(model.version)], "platform": "onnx", **sides}
        )

    async def protocol_ready(self, request: Request) -> Response:
        """Model readiness of the Open Inference Protocol."""
        self._check_name(request)
        return await self.ready(request)

    async def infer(self, request: Request) -> Response:
        """Inference of the Open Inference Protocol, with tensors as JSON."""
        self._check_name(request)
        scores, value = await self._scored(request, wire.protocol_inputs)
        score = next(t for t in self._contract.outputs if t.name == self._contract.score)
        output = {
            "name": score.name,
            "datatype": wire.DATATYPES[score.dtype],
            "shape": [len(scores), *score.shape],
            "data": scores.reshape(-1).tolist(),
        }
        model = self._predicate.model
        told = {
            "model_name": model.name,
            "model_version": str(model.version),
            "outputs": [output],
            "parameters": self._marks(),
        }
        return answer(told | ({"id": value["id"]} if isinstance(value.get("id"), str) else {}))

    def _marks(self) -> dict[str, Any]:
        model = self._predicate.model
        return {
            "model": f"{model.organisation}/{model.name} {model.version}",
            "certificate": self._verified.statement,
            "investigational": True,
            "mode": self._predicate.pilot_mode,
            "demo": self._verified.demo_root,
        }

    def _check_name(self, request: Request) -> None:
        if request.path_params["name"] not in self._names:
            raise NotFound("no model of this name is served here")

    def _check_in_force(self) -> None:
        if self._clock() >= self._predicate.not_after:
            raise Refused(
                f"the certificate expired on {self._predicate.not_after:%Y-%m-%d}: pull a newer "
                "one; nothing is predicted without",
                code="certificate_expired",
            )

    async def _scored(
        self, request: Request, arrays_of: Callable[..., dict[str, np.ndarray[Any, Any]]]
    ) -> tuple[Scores, dict[str, Any]]:
        self._check_in_force()
        _check_type(request)
        with self._worker.place():
            body = await _read_body(request, self._limit)

            def decode() -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
                value = wire.parse(self._contract, body)
                if arrays_of is wire.protocol_inputs:
                    wire.wanted_outputs(self._contract, value)
                arrays = arrays_of(self._contract, value)
                return arrays, {"id": value.get("id")}

            if len(body) <= _INLINE_BYTES:
                arrays, told = decode()
            else:
                arrays, told = await asyncio.to_thread(decode)
            return await self._worker.score(arrays), told


def _check_type(request: Request) -> None:
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":
        raise UnsupportedType("the body must be application/json; nothing else is decoded")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedType("a compressed body is not taken; send plain JSON")


async def _read_body(request: Request, limit: int) -> bytearray:
    """The body, of at most `limit` bytes, within BODY_SECONDS."""
    message = f"the body is larger than the {limit} bytes that this model's largest batch needs"
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:20]) > limit:
        raise TooLarge(message)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for block in request.stream():
                if len(body) + len(block) > limit:
                    raise TooLarge(message)
                body += block
    except TimeoutError as error:
        raise TooSlow("the body did not come in time; send it again") from error
    return body
