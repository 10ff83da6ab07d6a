"""Asking twice is asking once: what was asked with a key, and what was answered.

    >>> found = claim(record, caller, key, fingerprint)
    >>> if isinstance(found, Claim):
    ...     with found.under_way():
    ...         answer = act()
    ...     found.answered(answer)

Rules
-----
1. The key is taken in a transaction of its own before anything is done: of two at once one acts.
2. Each transaction that writes for a claimed request also marks the request as acted, or writes
   nothing: the mark and the act are one commit. A holder that was taken over can't commit.
3. A holder says again and again that it lives. When it does not, the next who asks takes over;
   whether the lost one had acted stands in the record (`Claim.again`).
4. An answer is kept only if something was done. A refusal did nothing, and frees the key.
5. A secret is never kept: such an answer is marked as withheld, and its repetition is refused.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from registry.database.record import Record, Row, Transaction, before_commit
from registry.identity.caller import Caller
from registry.trust.errors import Conflict, Invalid

HOLD_SECONDS = 30.0
LARGEST_ANSWER = 262_144
_current: ContextVar["Claim | None"] = ContextVar("current_claim", default=None)


@dataclass(frozen=True)
class Answer:
    """What was answered to a request. `body` is None where it may not be kept."""

    status: int
    media_type: str | None
    body: bytes | None


@dataclass(frozen=True)
class Claim:
    """The right to carry out one request."""

    record: Record
    caller: Caller
    key: str
    again: bool
    """Whether an earlier holder acted, and was lost before it could answer."""
    holder: uuid.UUID = field(default_factory=uuid.uuid4)

    @property
    def identity(self) -> uuid.UUID:
        """An id for what this request makes: the same however often it is carried out."""
        return uuid.uuid5(uuid.UUID(self.caller.token_id), self.key)

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """While this lasts, every transaction of the caller that writes is this request's."""
        tokens = _current.set(self), before_commit.set(self._mark)
        try:
            yield
        finally:
            _current.reset(tokens[0])
            before_commit.reset(tokens[1])

    def _mark(self, now: Transaction) -> None:
        if now.do("request_acted", key=self.key, holder=self.holder) != 1:
            raise Conflict(
                "another server carries this request out by now; nothing was written here",
                code="request_taken_over",
            )

    def renew(self) -> None:
        """Say that the holder lives."""
        with self.record.transaction(self.caller) as now:
            now.do("request_renew", key=self.key, holder=self.holder, seconds=HOLD_SECONDS)

    def answered(self, answer: Answer) -> None:
        """Keep the answer for whoever asks again."""
        with self.record.transaction(self.caller) as now:
            now.do(
                "request_answered",
                key=self.key,
                holder=self.holder,
                status=answer.status,
                media_type=answer.media_type,
                body=answer.body,
                withheld=answer.body is None,
            )

    def release(self) -> None:
        """Nothing was answered: free the key, or, if something was done, only the hold."""
        with self.record.transaction(self.caller) as now:
            now.do("request_drop", key=self.key, holder=self.holder)
            now.do("request_release", key=self.key, holder=self.holder)


def current_claim() -> Claim | None:
    """The claimed request that is being carried out here, if any."""
    return _current.get()


def claim(record: Record, caller: Caller, key: str, fingerprint: str) -> Claim | Answer:
    """The right to act, or the answer that was given already.

    Raises Invalid when the key was used for another request, Conflict while another server
    carries this one out.
    """
    fresh = Claim(record, caller, key, again=False)
    with record.transaction(caller) as now:
        now.one("requests_forget")
        for _ in range(3):  # the row may be freed between the two statements
            if now.do(
                "request_claim",
                key=key,
                fingerprint=fingerprint,
                holder=fresh.holder,
                seconds=HOLD_SECONDS,
            ):
                return fresh
            row = now.maybe("request_find", key=key)
            if row is not None:
                known = _known(row, fingerprint)
                if known is not None:
                    return known
                taken = Claim(record, caller, key, again=row["acted"])
                now.do("request_hold", key=key, holder=taken.holder, seconds=HOLD_SECONDS)
                return taken
    raise _in_flight()


def _known(row: Row, fingerprint: str) -> Answer | None:
    """The answer that stands, None where nobody holds the request."""
    if row["fingerprint"] != fingerprint:
        raise Invalid(
            "this Idempotency-Key was used for another request; use a new one for each thing "
            "that is to be done",
            code="key_reused",
        )
    if row["status"] is not None:
        body = None if row["body"] is None else bytes(row["body"])
        return Answer(row["status"], row["media_type"], None if row["withheld"] else body or b"")
    if row["held"]:
        raise _in_flight()
    return None


def _in_flight() -> Conflict:
    return Conflict(
        "this request is being carried out; ask again in a moment with the same key",
        code="request_in_flight",
    )
