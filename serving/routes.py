"""What a hospital's systems ask of a served model: health, label, metrics, predictions.

Rules
-----
1. Every path that is not listed here is refused: see serving.front.
2. A body is of a listed kind, of bounded size, read in bounded time; nothing else is decoded.
3. Every answer that holds a score says: investigational, in which mode, by which certificate.
4. Where the certificate has ended, was suspended or revoked, or its status is too old, nothing is
   answered but health and label, which say so.
5. No route logs or repeats an input or a score of another request.
"""

from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from registry.trust.errors import Unavailable
from serving import wire
from serving.front import answer, application
from serving.hospital.deployment import Deployment
from serving.hospital.parts import Parts
from serving.hospital.predicting import Predicting, check_name
from serving.inference.answers import Routes, Traced
from serving.inference.traces import Span


def routes(parts: Parts) -> Starlette:
    """The application with these routes and no other."""
    told, predicting = Told(parts), Predicting(parts)
    make = Routes(parts.guard, parts.metrics, parts.traces)
    one = "/v2/models/{name}"
    version = one + "/versions/{version}"
    table: dict[tuple[str, str], Traced] = {
        ("POST", "/v1/predict"): predicting.predict,
        ("GET", "/v1/model"): told.model,
        ("GET", "/metrics"): told.metrics,
        ("GET", "/v2"): told.server,
    }
    for prefix in (one, version):
        table |= {
            ("POST", prefix + "/infer"): predicting.infer,
            ("GET", prefix): told.protocol_model,
            ("GET", prefix + "/ready"): told.protocol_ready,
        }
    anyone: dict[tuple[str, str], Traced] = {
        ("GET", prefix + "/health/" + name): work
        for prefix in ("", "/v2")
        for name, work in (("live", told.live), ("ready", told.ready))
    }
    return application(
        {(method, path): make.handler(path, work) for (method, path), work in table.items()}
        | {
            (method, path): make.handler(path, work, anyone=True)
            for (method, path), work in anyone.items()
        }
    )


class Told:
    """Handlers that predict nothing."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def live(self, _: Request, __: Span) -> Response:
        """The process answers."""
        return answer({"live": True})

    async def ready(self, _: Request, __: Span) -> Response:
        """A prediction would be answered now."""
        active = self._parts.stage.active
        active.require_in_force()
        if not active.worker.ready:
            raise Unavailable("the model is being started", code="not_ready")
        return answer({"ready": True})

    async def metrics(self, _: Request, __: Span) -> Response:
        """Everything that Prometheus may read."""
        metrics = self._parts.metrics
        return Response(metrics.text(), headers={"Content-Type": metrics.content_type()})

    async def model(self, _: Request, __: Span) -> Response:
        """The label: what this is, what it is for, and until when."""
        active = self._parts.stage.active
        predicate = active.predicate
        plain = predicate.model_dump(mode="json")
        return answer(
            {
                **active.marks(),
                "model": plain["model"],
                "facility": predicate.facility,
                "verdict": predicate.overall,
                "conditions": list(predicate.conditions),
                "intended_use": plain["intended_use"],
                "protocol": plain["protocol"],
                "cohort": plain["cohort"],
                "not_after": plain["not_after"],
                "in_force": active.in_force,
                "standing": active.watch.told(),
                "contract": active.contract.model_dump(mode="json"),
                "largest_batch": wire.LARGEST_BATCH,
                "largest_body": wire.body_limit(active.contract),
                "images": self._parts.readers.told(active.contract),
            }
        )

    async def server(self, _: Request, __: Span) -> Response:
        """Server metadata of the Open Inference Protocol."""
        return answer({"name": "touchstone", "version": "1", "extensions": ["binary_tensor_data"]})

    async def protocol_model(self, request: Request, _: Span) -> Response:
        """Model metadata of the Open Inference Protocol."""
        active = self._parts.stage.active
        check_name(active, request)
        return answer(
            {
                "name": active.predicate.model.name,
                "versions": [str(active.predicate.model.version)],
                "platform": "onnx",
                **_sides(active),
            }
        )

    async def protocol_ready(self, request: Request, span: Span) -> Response:
        """Model readiness of the Open Inference Protocol."""
        check_name(self._parts.stage.active, request)
        return await self.ready(request, span)


def _sides(active: Deployment) -> dict[str, Any]:
    contract = active.contract
    score = [tensor for tensor in contract.outputs if tensor.name == contract.score]
    return {
        side: [
            {"name": t.name, "datatype": wire.DATATYPES[t.dtype], "shape": [-1, *t.shape]}
            for t in tensors
        ]
        for side, tensors in (("inputs", contract.inputs), ("outputs", score))
    }
