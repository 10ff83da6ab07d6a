"""`models:/NAME@clinical-pilot` for a hospital: beside MLflow, not through it.

    >>> front = Front(…, hospital=ClinicalPilot(facility))

Rules
-----
1. Six addresses, each with exactly the fields named here, each once. All else is not there.
2. Every request asks again for the certificate in force, as `touchstone pull` does. What the
   request names is compared with that, and with nothing else: MLflow's tables and its artifacts
   are never asked.
3. The files are those of the certificate, out of the bundle, and two that are made here
   (`unverified`). The one that was asked for is hashed before its first byte is sent, and again
   as it goes: no whole file that is another leaves. Nothing is held: no copy, no memory.
4. Each alias that was resolved is in the log before it is answered, as each pull is. A hospital
   that the log does not know gets no place and no file.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO
from urllib.parse import parse_qsl

import anyio.to_thread

from registry.database.record import Row
from registry.facility import Facility
from registry.identity.caller import Caller, current_caller
from registry.mlflow_gate.body import Receive
from registry.mlflow_gate.front import Scope, Send
from registry.mlflow_gate.naming import CLINICAL_PILOT, check_model_name
from registry.mlflow_gate.routes import API, FILES, SERVER_INFO, artifact_path
from registry.mlflow_gate.unverified import Pilot
from registry.submissions import certified
from registry.trust.canonical import sha256_bytes
from registry.trust.errors import Invalid, NotFound, Tampered, Unauthenticated
from registry.trust.keys import is_demo

ROUTES: Mapping[str, tuple[str, ...]] = {
    f"{API}/registered-models/alias": ("name", "alias"),
    f"{API}/registered-models/get": ("name",),
    f"{API}/model-versions/get-download-uri": ("name", "version"),
    SERVER_INFO: (),
    FILES: ("path",),
    f"{FILES}/{{file}}": (),
}
"""Each address with its fields; all are GET."""

_PLACE = re.compile(
    rf"{CLINICAL_PILOT}/(?P<organisation>[a-z0-9-]{{1,64}})/(?P<model>[A-Za-z0-9][A-Za-z0-9._-]{{0,99}})"
    r"/(?P<submission>[0-9a-f-]{36})(?:/(?P<file>[A-Za-z0-9][A-Za-z0-9._-]{0,127}))?\Z",
    re.ASCII,
)
_BLOCK = 1 << 20


@dataclass(frozen=True)
class _Given:
    """What is sent: its type, size and digest, and a stream of it that is nobody else's."""

    media: str
    size: int
    digest: str
    stream: BinaryIO

    def check(self, hashed: Any) -> None:
        """Raise Tampered where something else was hashed."""
        if f"sha256:{hashed.hexdigest()}" != self.digest:
            raise Tampered("this file is not the one that was certified; tell the facility")


class ClinicalPilot:
    """An ASGI application for callers that may pull certified models, whom the front knows."""

    def __init__(self, facility: Facility) -> None:
        self._facility = facility
        self._demo = is_demo(facility.root)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = current_caller.get()
        if caller is None:
            raise Unauthenticated("a certified model is loaded with a token of a hospital")
        path = str(scope["path"])
        address = f"{FILES}/{{file}}" if path.startswith(f"{FILES}/") else path
        if scope["method"] != "GET" or address not in ROUTES:
            raise NotFound(
                f"{scope['method']} {path[:120]} is not offered here to a hospital, which loads "
                f"models:/NAME@{CLINICAL_PILOT} or uses `touchstone pull`",
                code="not_offered",
            )
        asked = _fields(scope["query_string"], ROUTES[address])
        given = await anyio.to_thread.run_sync(self._answer, caller, address, path, asked)
        with given.stream:
            await _send(send, given)

    def _answer(self, caller: Caller, address: str, path: str, asked: Mapping[str, str]) -> _Given:
        if address == SERVER_INFO:
            return _json({"store_type": None, "workspaces_enabled": False})
        if address == FILES:
            return self._listed(caller, asked["path"])
        if "name" not in asked:
            return self._file(caller, artifact_path(path))
        check_model_name(asked["name"])
        if asked.get("alias", CLINICAL_PILOT) != CLINICAL_PILOT:
            raise NotFound(f"a hospital loads models:/NAME@{CLINICAL_PILOT} and no other alias")
        row = certified.find(self._facility, caller, asked["name"])
        pilot = self._pilot(row)
        if "alias" in asked:
            certified.note_pulled(self._facility, caller, row, by="mlflow")
            return _json(pilot.model_version())
        if "version" not in asked:
            return _json(pilot.registered_model())
        if asked["version"] != pilot.as_version:
            raise NotFound(
                f"a hospital loads no version by its number: load "
                f"models:/{pilot.model}@{CLINICAL_PILOT}"
            )
        certified.check_noted(self._facility, caller, row)
        return _json(pilot.download_uri())

    def _pilot(self, row: Row) -> Pilot:
        return Pilot(
            organisation=row["organisation"],
            model=row["model_name"],
            version=row["model_version"],
            submission=str(row["submission"]),
            demo=self._demo,
        )

    def _found(self, caller: Caller, path: str) -> tuple[Row, Pilot, str | None]:
        """The certificate in force that a place names, and the file in it that the path names."""
        place = _PLACE.match(path)
        if place is None:
            raise NotFound(f"there is no artifact {path[-120:]!a}")
        row = certified.find(self._facility, caller, f"{place['organisation']}/{place['model']}")
        pilot = self._pilot(row)
        if place["submission"] != pilot.submission:
            raise NotFound(
                f"this is not what is certified of {pilot.organisation}/{pilot.model} at present: "
                f"load models:/{pilot.model}@{CLINICAL_PILOT} again"
            )
        certified.check_noted(self._facility, caller, row)
        return row, pilot, place["file"]

    def _listed(self, caller: Caller, path: str) -> _Given:
        row, pilot, file = self._found(caller, path)
        if file is not None:
            raise NotFound(f"load models:/{pilot.model}@{CLINICAL_PILOT} whole, not one file of it")
        digests = certified.model_files(row)
        sizes = {name: len(data) for name, data in pilot.files(digests).items()}
        sizes |= {name: certified.model_size(self._facility, row, name) for name in digests}
        return _json(
            {
                "files": [
                    {"path": name, "is_dir": False, "file_size": sizes[name]}
                    for name in sorted(sizes)
                ]
            }
        )

    def _file(self, caller: Caller, path: str) -> _Given:
        row, pilot, file = self._found(caller, path)
        digests = certified.model_files(row)
        made = pilot.files(digests)
        if file in made:
            return _bytes("application/octet-stream", made[file])
        if file is None or file not in digests:
            raise NotFound(f"there is no artifact {path[-120:]!a}")
        return self._checked(row, file, digests[file])

    def _checked(self, row: Row, name: str, digest: str) -> _Given:
        """A certified file, after its bytes were hashed. Raises Tampered."""
        source, hashed = certified.open_model(self._facility, row, name), hashlib.sha256()
        size = 0
        try:
            while block := _next(source, hashed):
                size += len(block)
            given = _Given("application/octet-stream", size, digest, source)
            given.check(hashed)
            source.seek(0)
        except BaseException:
            source.close()
            raise
        return given


def _next(stream: BinaryIO, hashed: Any) -> bytes:
    block = stream.read(_BLOCK)
    hashed.update(block)
    return block


def _fields(query: bytes, expected: tuple[str, ...]) -> dict[str, str]:
    """The fields of a query, exactly the expected ones, each once; raises Invalid."""
    try:
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, strict_parsing=bool(query),
            errors="strict", max_num_fields=8,
        )  # fmt: skip
    except ValueError:
        pairs = [("", "")]
    if sorted(name for name, _ in pairs) != sorted(expected):
        needed = " and ".join(expected) or "no fields"
        raise Invalid(f"ask this with {needed}, each once and nothing else")
    return dict(pairs)


def _json(value: object) -> _Given:
    return _bytes("application/json", json.dumps(value).encode())


def _bytes(media: str, data: bytes) -> _Given:
    return _Given(media, len(data), sha256_bytes(data), BytesIO(data))


async def _send(send: Send, given: _Given) -> None:
    """Send it, hashed once more on the way; its last block only where all of it was right."""
    headers = [
        (b"content-type", given.media.encode()),
        (b"content-length", str(given.size).encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    held, hashed = b"", hashlib.sha256()
    while block := await anyio.to_thread.run_sync(_next, given.stream, hashed):
        if held:
            await send({"type": "http.response.body", "body": held, "more_body": True})
        held = block
    given.check(hashed)
    await send({"type": "http.response.body", "body": held})
