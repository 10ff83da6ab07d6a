"""The log over HTTP: events, checkpoints and proofs, to be computed again by whoever asks."""

import base64
import datetime as dt
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from registry.api import paging
from registry.api.paging import After, Cursor, Page, beyond
from registry.audit import cosignatures, reading
from registry.audit.reads import note_verification
from registry.audit.tree import KnownTree
from registry.audit.witness_protocol import LARGEST_ANSWER
from registry.database.record import Row
from registry.facility import Facility
from registry.identity.caller import Caller

_MOST = (1 << 53) - 1
Limit = Annotated[
    int,
    Query(ge=1, le=reading.LARGEST_PAGE, description="How many items at most.", examples=[1000]),
]
"""More than of other lists: an auditor downloads the whole log."""
Size = Annotated[int, Query(ge=0, le=_MOST, description="A number of events.")]


Name = Annotated[
    str,
    Path(
        pattern=r"^([0-9]{1,15}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$",
        description="An event's number, or a submission's id.",
        examples=["1"],
    ),
]


class Event(BaseModel):
    """One event of the log, in the very words that its hash is over."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "seq": 2, "at": "2026-11-24T09:00:00.000000Z", "actor": "Eva", "organisation": "sme-a",
        "kind": "submission-registered", "subject": "7f1d2c1e-4b7e-4a53-9b8d-2c8f0f6f9f10",
        "detail": "{}", "previous": "ab" * 32, "hash": "cd" * 32,
    }]})  # fmt: skip
    seq: int
    at: str
    actor: str
    organisation: str
    kind: str
    subject: str
    detail: str
    previous: Annotated[str, Field(description="The hash of the event before, in hex.")]
    hash: str


class Checkpoint(BaseModel):
    """A signed state of the log."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "size": 2, "note": "tef.example/log\n2\n…\n\n— tef.example/log …\n",
    }]})  # fmt: skip
    size: Annotated[int, Field(description="How many events it is over.")]
    note: Annotated[str, Field(description="C2SP signed-note of a tlog-checkpoint.")]


class IndexedCheckpoint(BaseModel):
    """A checkpoint that the database remembers."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "size": 2, "root": "ab" * 32, "path": "log/checkpoints/00000000000000000002.txt",
        "made_at": "2026-11-24T09:00:00Z",
    }]})  # fmt: skip
    size: int
    root: str
    path: str
    made_at: dt.datetime


class CohortRead(BaseModel):
    """Which locked cohort is about to be read."""

    model_config = ConfigDict(extra="forbid")
    cohort: Annotated[str, Field(min_length=1, max_length=64, examples=["lidc"])]
    version: Annotated[str, Field(min_length=1, max_length=64, examples=["1"])]


WitnessName = Annotated[
    str,
    Query(
        min_length=1, max_length=255, description="Its name, as in its verifier key.",
        examples=["witness.example/w1"],
    ),
]  # fmt: skip


class WitnessAnswer(BaseModel):
    """What a witness answered, brought by hand."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{
        "witness": "witness.example/w1", "size": 2, "lines": "— witness.example/w1 …\n",
    }]})  # fmt: skip
    witness: Annotated[str, Field(min_length=1, max_length=255)]
    size: Annotated[int, Field(ge=1, le=_MOST, description="Of the checkpoint that it saw.")]
    lines: Annotated[str, Field(max_length=LARGEST_ANSWER, description="Its signature lines.")]


def router(facility: Facility, caller_of: Any) -> APIRouter:
    """The routes under /api/v1/audit."""
    routes = APIRouter(prefix="/api/v1/audit", tags=["audit"])
    trees = KnownTree(facility.gate)
    Who = Annotated[Caller, Depends(caller_of)]  # noqa: N806

    @routes.get("/log", summary="Which log this is: origin, certificate, verifier key")
    def log(caller: Who) -> dict[str, Any]:
        return reading.log_of(facility, caller)

    @routes.get("/events", summary="Events by number", response_model=Page[Event])
    def events(
        caller: Who,
        request: Request,
        response: Response,
        after: After = 0,
        limit: Limit = 1000,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        """The log, oldest first: all of it for auditors, your organisation's own for others."""
        rows, following = paging.read(
            request, response, caller, limit, cursor,
            lambda last, number: reading.events(facility, caller, beyond(after, last), number),
            lambda row: (str(row["seq"]),),
        )  # fmt: skip
        return {"items": rows, "next": following}

    @routes.get(
        "/checkpoints", summary="Signed checkpoints, as they lie in the object store",
        response_model=Page[Checkpoint],
    )  # fmt: skip
    def checkpoints(
        caller: Who,
        request: Request,
        response: Response,
        limit: Limit = 1000,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        """Rising by the number of events under each."""
        rows, following = paging.read(
            request, response, caller, limit, cursor,
            lambda last, number: reading.checkpoints(facility, caller, beyond(0, last), number),
            _size,
        )  # fmt: skip
        return {"items": rows, "next": following}

    @routes.get(
        "/checkpoint-index", summary="The database's own list of checkpoints",
        response_model=Page[IndexedCheckpoint],
    )  # fmt: skip
    def index(
        caller: Who,
        request: Request,
        response: Response,
        limit: Limit = 1000,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        """To be held against what lies in the object store."""
        rows, following = paging.read(
            request, response, caller, limit, cursor,
            lambda last, number: reading.index(facility, caller, beyond(0, last), number),
            _size,
        )  # fmt: skip
        return {"items": rows, "next": following}

    @routes.get("/consistency", summary="Proof that the log of `second` events extends `first`")
    def consistency(caller: Who, first: Size, second: Size) -> dict[str, Any]:
        path = reading.consistency(facility, trees, caller, first, second)
        return {"path": [base64.b64encode(step).decode() for step in path]}

    @routes.get("/proofs/{name}", summary="Proof of an event, or of a submission's events")
    def prove(caller: Who, name: Name) -> Response:
        data = reading.prove(facility, trees, caller, name)
        return Response(data, media_type="application/json")

    @routes.post("/reads", status_code=201, summary="Log that a locked cohort is about to be read")
    def read(caller: Who, about: CohortRead) -> dict[str, str]:
        note_verification(facility, caller, about.cohort, about.version)
        return {"cohort": about.cohort, "version": about.version}

    @routes.get("/witnesses", summary="The log's witnesses, and what each has co-signed")
    def witnesses(caller: Who) -> dict[str, Any]:
        return cosignatures.listing(facility, caller)

    @routes.get("/witness-request", summary="What a witness is to be given (C2SP tlog-witness)")
    def witness_request(
        caller: Who,
        witness: WitnessName,
        old: Annotated[
            int | None, Query(ge=0, le=_MOST, description="How many events it saw last.")
        ] = None,
    ) -> Response:
        """The body of `add-checkpoint`: for a witness that is asked by files."""
        data = cosignatures.request_for(facility, trees, caller, witness, old)
        return Response(data, media_type="text/plain")

    @routes.post("/witness-answers", status_code=201, summary="Take a co-signature in")
    def witness_answer(caller: Who, given: WitnessAnswer) -> dict[str, Any]:
        """Checked by the key that the facility chose; the same line again changes nothing."""
        lines = given.lines.encode()
        return cosignatures.hand_in(facility, caller, given.witness, given.size, lines)

    return routes


def _size(row: Row) -> tuple[str, ...]:
    return (str(row["size"]),)
