"""What a hospital decides itself about the certificates that it takes.

    policy = Policy(acknowledged={use: "Dr Clara Weiss"}, witnesses=(witness,), witnesses_needed=1)

The defaults are the careful ones: no demo's root, nothing acknowledged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from registry.trust.checkpoint import parse_witness_key
from registry.trust.errors import Invalid


@dataclass(frozen=True)
class Witness:
    """Somebody who watches the facility's log: name and key."""

    name: str
    key: Ed25519PublicKey


@dataclass(frozen=True)
class Policy:
    """What is asked beside the rules that hold for everybody.

    allow_demo: take a root that a demo made for itself. acknowledged: who acknowledged which
    intended use, by its digest (`Predicate.use`); acknowledging: who does so now. witnesses: whom
    the hospital believes, and how many of them must have seen the log with the certificate in it.
    last_checkpoint: the newest state of the log that this hospital saw, as it was signed. tiles:
    the folder with the log's tree (`registry.trust.tiles`), which proves one state to extend
    another.
    """

    allow_demo: bool = False
    acknowledged: Mapping[str, str] = field(default_factory=dict)
    acknowledging: str | None = None
    witnesses: tuple[Witness, ...] = ()
    witnesses_needed: int = 0
    last_checkpoint: bytes | None = None
    tiles: Path | None = None


def witnesses_of(keys: Sequence[str], needed: int | None) -> tuple[tuple[Witness, ...], int]:
    """(witnesses, how many of them) of verifier keys `NAME+ID+KEY`; all of them if not said."""
    try:
        found = tuple(Witness(*parse_witness_key(key)) for key in keys)
    except Invalid as error:
        raise Invalid(error.message, code="witnesses") from error
    number = len(found) if needed is None else needed
    names = {witness.name for witness in found}  # two keys of one witness are one witness
    distinct = {witness.key.public_bytes_raw() for witness in found}
    if not len(names) == len(distinct) == len(found) or not 0 <= number <= len(found):
        raise Invalid(
            f"{number} of {len(found)} witnesses are asked for: name each once with --witness, and "
            "ask for no more than there are",
            code="witnesses",
        )
    return found, number
