"""Whose fault a failure was: the one decision on which a spent attempt may come back.

    >>> whose(Failure("model_timeout", model_had_a_hand=True, canary_after=True)).ours
    False

Rules
-----
1. The model's, unless it is proven to be the facility's. Doubt is not proof.
2. Before the first locked shard is decrypted a canary, a model of our own, must have passed in
   the same sandbox on the same host: a run begins on a sound host or not at all.
3. Proof is one of five: a locked thing does not have its digest or is gone; the inference server
   failed, and not the model in it; the fault came before the submitter's model had been opened at
   all; the canary, which passed before, fails after the model's process is dead and buried; or
   time ran out while something of the facility's was away (`kept_waiting`).
4. A worker that died while the model ran proves nothing: a model may have killed it.
5. Pure: the canary is run by the worker (`pipeline.canary`).
"""

import datetime as dt
from dataclasses import dataclass
from typing import Literal

LOCKED_THINGS = frozenset(
    {"tampered", "model_tampered", "not_found", "shard_unfit", "no_agreement", "cohort_closed"}
)
"""Codes that are about a thing under our lock, which no model can reach from its sandbox."""

SERVERS = frozenset(
    {
        "inference_unreachable",
        "inference_changed",
        "inference_refused",
        "busy",
        "unloading",
        "model_not_loaded",
        "model_unknown",
        "batch_too_large",
        "unauthenticated",
    }
)
"""Codes of the inference server itself, or of the way to it. What a model does there comes as a
failure of the model."""

AWAY = SERVERS | {"database_lost", "not_witnessed", "witnesses_unreadable"}
"""Codes for which a turn is taken again, and which no model can bring about from its sandbox."""

RATIONED = frozenset({"attempts_spent", "family_passed"})
"""Codes that end a submission before the first locked shard: there was no attempt for it."""


@dataclass(frozen=True)
class Failure:
    """What is known of a failure.

    code: its stable code. model_had_a_hand: the submitter's model had been opened, or what it
    answered was being worked on. canary_after: whether our own model still runs here, asked after
    the failure; None when nobody asked. blamed: the error says itself that the file or the
    model is at fault (intake's refusals). kept_waiting: see the function.
    """

    code: str
    model_had_a_hand: bool
    canary_after: bool | None = None
    blamed: bool = False
    kept_waiting: bool = False


@dataclass(frozen=True)
class Finding:
    """Whose it was and why, for the record."""

    party: Literal["facility", "model"]
    reason: str

    @property
    def ours(self) -> bool:
        """Whether the attempt, if one was spent, is given back."""
        return self.party == "facility"


def whose(failure: Failure) -> Finding:
    """The finding; see the rules above for what counts as proof."""
    if failure.code in LOCKED_THINGS:
        return Finding(
            "facility",
            "a thing under the facility's lock is damaged, closed, gone or may not be used",
        )
    if failure.code in SERVERS:
        return Finding("facility", "the facility's inference server failed, or the way to it")
    if failure.code in RATIONED:
        return Finding("model", "its family has no attempt left on this cohort version")
    if failure.kept_waiting:
        return Finding("facility", "what the run needs was away for longer than the model had")
    if failure.canary_after is False:
        return Finding("facility", "the facility's own model fails on this host too")
    if failure.blamed:
        return Finding("model", "the model or its file failed")
    if not failure.model_had_a_hand:
        return Finding("facility", "it failed before the model was opened")
    if failure.canary_after is None:
        return Finding("model", "nothing shows that the facility failed")
    return Finding("model", "the facility's own model still runs on this host")


def kept_waiting(
    answered: dt.datetime,
    away: dt.datetime | None,
    back: dt.datetime | None,
    until: dt.datetime,
) -> bool:
    """Whether, since the last answer, the model waited for the facility longer than it computed.

    answered: the last that came of the work, or its begin. away: when a turn first ended after that
    for one of AWAY; None where none did. back: when, after the last such turn, work began again;
    None where it did not. until: the deadline. An answer since ends all waiting: what is late then
    is slow. That the canary passes in the end proves nothing of the time before.
    """
    if away is None:
        return False
    again = until if back is None else min(back, until)
    return again - away > (away - answered) + (until - again)
