"""The whole log computed again, by somebody who believes nobody.

    >>> outcome = recompute(rows, stored, certificate, root, at=now)
    >>> outcome.findings[0].first, outcome.findings[0].what       # the first bad row

Rules
-----
1. Rows come in the order of `seq`, each with the hash that the database holds for it.
2. The chain names the first row that is not what was written. A chain that was written anew from
   some row on holds in itself; the checkpoints betray it, and name the rows it can be.
3. Every checkpoint must be signed by the log that the root knows, and each must extend the one
   before. One that the auditor kept (`against`) counts like a stored one, and is not the server's.
"""

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from cryptography import x509

from registry.trust.checkpoint import Checkpoint, verified
from registry.trust.errors import Invalid, TouchstoneError
from registry.trust.event import BEFORE_THE_FIRST, parse_event
from registry.trust.log_key import check_log_certificate
from registry.trust.merkle import Tree, extends, leaf_hash


@dataclass(frozen=True)
class Finding:
    """What is wrong, with the events from `first` to `last` or with the checkpoint of `last`."""

    first: int
    last: int
    what: str
    about: Literal["events", "checkpoint"] = "events"

    @property
    def place(self) -> str:
        """Where it is, in words."""
        if self.about == "checkpoint":
            return f"the checkpoint of {self.last} events"
        return (
            f"event {self.first}"
            if self.first == self.last
            else (f"events {self.first} to {self.last}")
        )


@dataclass(frozen=True)
class Outcome:
    """What was computed again. `findings` is empty where all of it holds."""

    origin: str
    events: int
    checkpoints: int
    root: bytes
    findings: tuple[Finding, ...]

    def as_json(self) -> dict[str, Any]:
        """The outcome as plain JSON values."""
        return {
            "ok": not self.findings,
            "origin": self.origin,
            "events": self.events,
            "checkpoints": self.checkpoints,
            "root": self.root.hex(),
            "first_bad": self.findings[0].first if self.findings else None,
            "findings": [asdict(finding) for finding in self.findings],
        }


def recompute(
    rows: Iterable[Mapping[str, Any]],
    stored: Mapping[int, bytes],
    certificate: x509.Certificate,
    root: x509.Certificate,
    at: dt.datetime,
    *,
    against: Iterable[bytes] = (),
) -> Outcome:
    """Chain, tree and checkpoints computed again.

    rows: every event with its `hash`. stored: the checkpoints' notes by the size in their name.
    against: notes that the auditor kept. Raises Refused where `root` does not know the log.
    """
    origin, public = check_log_certificate(certificate, root, at)
    tree, broken = _chain(rows)
    findings = [broken] if broken else []
    notes: list[tuple[int | None, str, bytes]] = [
        (size, f"the stored checkpoint of {size} events", note) for size, note in stored.items()
    ]
    notes += [(None, "the checkpoint that you kept", note) for note in against]
    signed: list[tuple[Checkpoint, str]] = []
    for named, what, note in notes:
        try:
            checkpoint = verified(note, origin, public)
        except TouchstoneError as error:
            findings.append(
                Finding(named or 0, named or 0, f"{what}: {error.message}", "checkpoint")
            )
            continue
        if named not in (None, checkpoint.size):
            findings.append(
                Finding(named, named, f"{what} is one of {checkpoint.size}", "checkpoint")
            )
            continue
        signed.append((checkpoint, what))
    findings += _against_checkpoints(tree, signed, whole=broken is None)
    findings.sort(key=lambda finding: finding.first)
    return Outcome(origin, tree.size, len(notes), tree.root(), tuple(findings))


def _chain(rows: Iterable[Mapping[str, Any]]) -> tuple[Tree, Finding | None]:
    """The tree of the rows that hold, and the first that does not."""
    tree, previous = Tree(), BEFORE_THE_FIRST
    for row in rows:
        expected = tree.size + 1
        fields = dict(row)
        stated = fields.pop("hash", None)
        try:
            event = parse_event(fields)
        except Invalid as error:
            return tree, Finding(expected, expected, error.message)
        if event.seq > expected:
            return tree, Finding(
                expected, event.seq - 1, f"missing: after it comes event {event.seq}"
            )
        if event.seq < expected:
            return tree, Finding(event.seq, event.seq, "out of order: it came before")
        computed = event.hash()
        if computed != stated:
            return tree, Finding(
                expected, expected, "altered: its content is not what its hash was made of"
            )
        if event.previous != previous:
            return tree, Finding(
                max(1, expected - 1),
                expected,
                f"event {expected} does not follow on the one before: one of the two was "
                "rewritten, put in or taken out, and its hash made anew",
            )
        tree.append(leaf_hash(event.leaf()))
        previous = computed
    return tree, None


def _against_checkpoints(
    tree: Tree, signed: list[tuple[Checkpoint, str]], *, whole: bool
) -> list[Finding]:
    """The first checkpoint that the rows do not have, each held against the one before.

    Where the chain is broken (not `whole`), checkpoints beyond the break are left out: they can't
    fit, and would only say so.
    """
    findings: list[Finding] = []
    good, below = Checkpoint("", 0, tree.root(0)), 0
    for checkpoint, what in sorted(signed, key=lambda pair: pair[0].size):
        if checkpoint.size > tree.size:
            if whole:
                findings.append(Finding(
                    tree.size + 1, checkpoint.size,
                    f"missing at the end: {what} was signed, and the log has {tree.size}",
                ))  # fmt: skip
            break
        path = tree.consistency_path(good.size, checkpoint.size)
        holds = extends(good.size, good.root, checkpoint.size, checkpoint.root, path)
        if not holds or tree.root(checkpoint.size) != checkpoint.root:
            first = 1 + (good.size if good.size < checkpoint.size else below)
            findings.append(
                Finding(
                    first,
                    checkpoint.size,
                    f"rewritten: the chain holds, but {what} was signed over another log; one of "
                    f"the events {first} to {checkpoint.size} is not what it was",
                )
            )
            break
        if checkpoint.size > good.size:
            below = good.size
        good = checkpoint
    return findings
