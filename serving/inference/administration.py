"""The routes of the server itself: health, models by digest, shared memory, metrics.

Rules
-----
1. A model is loaded by its digest alone; Triton's parameters that bring files or settings along
   are refused.
2. One upload at a time; its bytes go to disk as they come.
"""

import asyncio
import json
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from registry.trust.canonical import is_digest
from registry.trust.errors import Invalid, NotFound, Refused, Unavailable
from registry.trust.model_files import MAXIMUM_BYTES
from serving.front import answer
from serving.inference.answers import SMALL, header_length, plain_encoding, small_object
from serving.inference.json_tensors import object_of
from serving.inference.parts import Parts
from serving.inference.places import declared_length
from serving.inference.resident import Session
from serving.inference.store import Upload
from serving.inference.traces import Span
from serving.problems import TooSlow

UPLOAD_SECONDS = 600.0
_BLOCK = 4 << 20


class Administration:
    """Handlers of everything but /v2/models."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._uploading = False

    async def server(self, _: Request, __: Span) -> Response:
        """What this server is, and how far it locks a model down."""
        extensions = ["model_repository", "binary_tensor_data", "model_configuration"]
        if self._parts.regions.offered:
            extensions.append("system_shared_memory")
        return answer(
            {
                "name": "touchstone",
                "version": _version(),
                "extensions": extensions,
                "sandbox": self._parts.probe,
                "places": self._parts.places.count,
                "largest_body": self._parts.settings.largest_body,
            }
        )

    async def live(self, _: Request, __: Span) -> Response:
        """The process answers."""
        return answer({"live": True})

    async def ready(self, _: Request, __: Span) -> Response:
        """A sandboxed process came up here. A full server is ready too: whoever asks waits."""
        return answer({"ready": True})

    async def metrics(self, _: Request, __: Span) -> Response:
        """Prometheus."""
        metrics = self._parts.metrics
        return Response(metrics.text(), headers={"Content-Type": metrics.content_type()})

    async def index(self, request: Request, _: Span) -> Response:
        """Every model that lies here, and whether it is loaded."""
        value = await small_object(request)
        loaded = self._parts.repository.loaded
        digests = await asyncio.to_thread(self._parts.repository.store.digests)
        rows = [
            {
                "name": digest,
                "version": "1",
                "state": "READY" if digest in loaded else "UNAVAILABLE",
                "reason": "",
            }
            for digest in digests
            if digest in loaded or value.get("ready") is not True
        ]
        return Response(_list(rows), media_type="application/json")

    async def load(self, request: Request, span: Span) -> Response:
        """A fresh process with the model, and what is recorded of it as evidence."""
        digest = _digest(request)
        span.set_attribute("touchstone.model", digest)
        value = await small_object(request)
        if value.get("parameters"):
            raise Refused(
                "a model is loaded by its digest alone: no files and no configuration come along",
                code="bad_parameter",
            )
        session = await self._parts.repository.load(digest)
        return answer({"model": digest, "session": told(session)})

    async def unload(self, request: Request, _: Span) -> Response:
        """End the model's process, whatever it is doing."""
        digest = _digest(request)
        await small_object(request)
        await self._parts.repository.unload(digest)
        return answer({})

    async def upload(self, request: Request, span: Span) -> Response:
        """The files of a model: {"files": [{"name", "size"}]} as the header, their bytes after it.

        201; 409 where they are not what the digest names.
        """
        digest = _digest(request)
        span.set_attribute("touchstone.model", digest)
        plain_encoding(request)
        length = declared_length(request.headers.get("content-length"), MAXIMUM_BYTES + SMALL)
        head = header_length(request, length, SMALL)
        if head is None:
            raise Invalid("the header's length is missing", code="bad_size")
        if self._uploading:
            raise Unavailable("another model is being uploaded", code="busy")
        self._uploading = True
        try:
            async with asyncio.timeout(UPLOAD_SECONDS):
                await self._receive(request, digest, head, length)
        except TimeoutError as error:
            raise TooSlow("the model did not come in time; send it again") from error
        finally:
            self._uploading = False
        response = answer({"model": digest})
        response.status_code = 201
        return response

    async def _receive(self, request: Request, digest: str, head: int, length: int) -> None:
        stream = _Blocks(request)
        sizes = _sizes(object_of(await stream.exactly(head)))
        if sum(sizes.values()) != length - head:
            raise Invalid("the files do not fill the body exactly", code="bad_size")
        with self._parts.repository.store.upload(digest, sizes) as upload:
            left = length - head
            while left:
                block = await stream.exactly(min(left, _BLOCK))
                await asyncio.to_thread(_write, upload, block)
                left -= len(block)

    async def regions(self, request: Request, _: Span) -> Response:
        """The registered regions of shared memory, or one of them."""
        rows = self._parts.regions.status(request.path_params.get("name"))
        return Response(_list(rows), media_type="application/json")

    async def register(self, request: Request, _: Span) -> Response:
        """Take a region of shared memory."""
        value = await small_object(request)
        self._parts.regions.register(request.path_params["name"], value)
        return answer({})

    async def unregister(self, request: Request, _: Span) -> Response:
        """Forget one region, or all."""
        await small_object(request)
        self._parts.regions.unregister(request.path_params.get("name"))
        return answer({})


class _Blocks:
    """A body, cut as its reader asks and not as it came."""

    def __init__(self, request: Request) -> None:
        self._request, self._held = request, bytearray()

    async def exactly(self, size: int) -> bytes:
        while len(self._held) < size:
            message = await self._request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            self._held += message.get("body", b"")
            if not message.get("more_body") and len(self._held) < size:
                raise Invalid("the body is shorter than was declared", code="bad_size")
        taken = bytes(self._held[:size])
        del self._held[:size]
        return taken


def told(session: Session) -> dict[str, Any]:
    """A session as JSON: see `serving.inference.remote`, which reads it."""
    return {
        "providers": list(session.info.providers),
        "versions": session.info.versions,
        "level": session.level,
        "execution": session.execution,
        "description": session.info.description.model_dump(mode="json"),
    }


def _write(upload: Upload, block: bytes) -> None:
    upload.write(memoryview(block))


def _sizes(value: dict[str, Any]) -> dict[str, int]:
    rows = value.get("files")
    if not isinstance(rows, list) or not 0 < len(rows) <= 2:
        raise Invalid("a model has one or two files", code="bad_request")
    sizes: dict[str, int] = {}
    for row in rows:
        if (
            not isinstance(row, dict)
            or not isinstance(row.get("name"), str)
            or type(row.get("size")) is not int
            or not 0 <= row["size"] <= MAXIMUM_BYTES
        ):
            raise Invalid("a file needs a name and a size", code="bad_request")
        sizes[row["name"]] = row["size"]
    return sizes


def _digest(request: Request) -> str:
    digest = str(request.path_params["digest"])
    if not is_digest(digest):
        raise NotFound("a model is named by its digest, sha256: and 64 hex digits")
    return digest


def _list(rows: list[dict[str, Any]]) -> bytes:
    return json.dumps(rows, separators=(",", ":")).encode()


def _version() -> str:
    try:
        return version("touchstone-tef")
    except PackageNotFoundError:
        return "0"
