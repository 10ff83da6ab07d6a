"""Ask the witnesses to co-sign the newest checkpoint, over HTTP, in the background.

    >>> await ask(facility, KnownTree(facility.gate))      # each that has not co-signed it yet
    >>> await ask_for_ever(facility)                       # by the worker, twice a minute

Rules
-----
1. A checkpoint is made, kept and used whether or not anybody co-signs it: what goes wrong with a
   witness is written down for the list of witnesses, and tried again at the next look.
2. Each witness is asked beside the others and has ten seconds for all of its answer, of which no
   more is read than an answer can have. No redirect is followed.
3. What a witness says in words is not repeated: only its status, in ours.
4. A witness that knows another size than we thought is asked once more, from that size.
"""

import asyncio
import datetime as dt
import logging
from dataclasses import dataclass
from typing import Final

import httpx

from registry.audit.checkpoints import LOOK_SECONDS, latest_note
from registry.audit.cosignatures import in_trouble, last_seen, note_trouble, take
from registry.audit.log_key import log_key
from registry.audit.tree import KnownTree
from registry.audit.witness_protocol import CALL, LARGEST_ANSWER, request_body, size_in
from registry.audit.witnesses import Witness, configured
from registry.facility import Facility
from registry.identity.oidc_settings import is_loopback
from registry.trust.checkpoint import Checkpoint, verified
from registry.trust.errors import Tampered, TouchstoneError
from registry.trust.merkle import Tree

DEADLINE: Final = dt.timedelta(seconds=10)
_TWO_FACES = "keep both checkpoints; `touchstone audit verify` says more"
_SAID = {
    400: "it finds the request malformed (400)",
    403: "it does not know this log or its key (403): give its operator the log's verifier key",
    404: "it does not know this log (404): give its operator the log's verifier key",
    422: "it saw another log, which this one does not continue (422): " + _TWO_FACES,
}
log = logging.getLogger("touchstone.log")


@dataclass(frozen=True)
class Question:
    """One witness to be asked: the checkpoint, its tree, and what the witness saw last."""

    witness: Witness
    url: str
    old: int
    head: Checkpoint
    note: bytes
    tree: Tree


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    content_type: str
    body: bytes


class _Trouble(Exception):
    """Why a witness did not co-sign, for people."""


async def ask(
    facility: Facility,
    known: KnownTree,
    deadline: dt.timedelta = DEADLINE,
    *,
    after_trouble: bool = True,
) -> None:
    """Ask each witness that has an address and has not co-signed the newest checkpoint.

    after_trouble: also those whose last answer was none; False for whoever must not wait for them
    again and again. Raises only what is wrong on our side: the database away, the file of witnesses
    wrong, the log not what was signed.
    """
    questions = await asyncio.to_thread(_questions, facility, known, after_trouble=after_trouble)
    await asyncio.gather(*(_one(facility, question, deadline) for question in questions))


async def ask_for_ever(facility: Facility) -> None:
    """The worker's schedule, beside its other work."""
    known = KnownTree(facility.gate)
    while True:
        try:
            await ask(facility, known)
        except TouchstoneError as error:
            log.error("witnesses: %s", error.message)
        except Exception as error:  # noqa: BLE001 - the next look may succeed
            log.error("witnesses: %s", type(error).__name__)
        await asyncio.sleep(LOOK_SECONDS)


def _questions(facility: Facility, known: KnownTree, *, after_trouble: bool) -> list[Question]:
    left_out = set() if after_trouble else in_trouble(facility)
    asked = [
        witness
        for witness in configured(facility).all
        if witness.url is not None and witness.verifier_key not in left_out
    ]
    note = latest_note(facility) if asked else None
    if note is None:
        return []
    key = log_key(facility)
    head = verified(note, key.origin, key.key.public_key())
    seen = last_seen(facility)
    sizes = {one.verifier_key: seen.get(one.verifier_key, {}).get("size", 0) for one in asked}
    due = [witness for witness in asked if sizes[witness.verifier_key] != head.size]
    if not due:
        return []
    try:
        tree = known.at(head.size, head.root)
    except Tampered as error:
        for witness in due:
            note_trouble(facility, witness, f"it was not asked: {error.message}")
        raise
    return [
        # What is kept here may be of a log that was longer; the witness says where it is.
        Question(one, str(one.url), min(sizes[one.verifier_key], head.size), head, note, tree)
        for one in due
    ]


async def _one(facility: Facility, question: Question, deadline: dt.timedelta) -> None:
    name = question.witness.name
    try:
        async with asyncio.timeout(deadline.total_seconds()):
            body = await _answer(question)
        await asyncio.to_thread(take, facility, question.witness, question.note, body)
        return
    except TimeoutError:
        trouble = f"it gave no whole answer within {deadline.total_seconds():.0f} seconds"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        trouble = f"it can't be reached ({type(error).__name__})"
    except _Trouble as error:
        trouble = str(error)
    except TouchstoneError as error:
        trouble = f"its answer is not taken: {error.message}"
    except Exception as error:  # noqa: BLE001 - one witness is no reason to leave out the others
        trouble = f"asking it failed ({type(error).__name__})"
    log.warning("witness %s: %s", name, trouble)
    try:
        await asyncio.to_thread(note_trouble, facility, question.witness, trouble)
    except TouchstoneError as error:
        log.error("witness %s: %s", name, error.message)


async def _answer(question: Question) -> bytes:
    """The lines of an answer 200; _Trouble, in words, for anything else."""
    old = question.old
    # A cluster's way out may be a proxy, named by the environment; this machine is no way out.
    local = is_loopback(question.url)
    async with httpx.AsyncClient(
        follow_redirects=False, trust_env=not local, timeout=DEADLINE.total_seconds()
    ) as http:
        answer = await _posted(http, question, old)
        size = size_in(answer.content_type, answer.body) if answer.status == 409 else None
        if size is not None and size != old and size <= question.head.size:
            old = size
            answer = await _posted(http, question, old)
            size = size_in(answer.content_type, answer.body) if answer.status == 409 else None
    if answer.status == 200:
        return answer.body
    raise _Trouble(_said(answer.status, size, old, question.head.size))


async def _posted(http: httpx.AsyncClient, question: Question, old: int) -> Answer:
    path = question.tree.consistency_path(old, question.head.size)
    content = request_body(old, path, question.note)
    headers = {"Content-Type": "text/plain; charset=utf-8", "Accept-Encoding": "identity"}
    body = bytearray()
    async with http.stream("POST", question.url + CALL, content=content, headers=headers) as answer:
        async for chunk in answer.aiter_raw():  # as it came: nothing to unpack
            body += chunk
            if len(body) > LARGEST_ANSWER:
                raise _Trouble(f"its answer is longer than {LARGEST_ANSWER} bytes")
        return Answer(answer.status_code, answer.headers.get("content-type", ""), bytes(body))


def _said(status: int, size: int | None, old: int, ours: int) -> str:
    if status != 409:
        return _SAID.get(status, f"it answered with status {status}")
    if old == ours and size in (None, old):
        return f"it co-signed another log of {ours} events (409): {_TWO_FACES}"
    if size is None:
        return "it answered 409 without the size that it saw last"
    if size > ours:
        return (
            f"it co-signed {size} events of this log and the newest checkpoint is of {ours}: the "
            "log was rolled back, or its checkpoints were"
        )
    return f"it says that it saw {size} events last and, asked from there, refuses (409)"
