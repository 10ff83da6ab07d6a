"""The witnesses that the facility asks, as TOUCHSTONE_WITNESSES names them.

    # witnesses.txt: a verifier key a line, and where it is asked; no address: by files
    needed 1
    witness.example.org/w1+0a1b2c3d+BBBB… https://witness.example.org/api
    hospital.example/log+11223344+BCCC…

    >>> chosen = configured(facility)            # read anew, so a change needs no restart
    >>> [witness.name for witness in chosen.all], chosen.needed

Rules
-----
1. A name stands once and a key stands once: one witness under two names is one witness.
2. The log's own key is no witness of the log.
3. An address is https, or on this machine. It is the submission prefix of C2SP tlog-witness.
4. `needed` is how many must have co-signed before a certificate is drafted; none, if left out.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from registry.audit.log_key import log_key
from registry.facility import Facility
from registry.identity.oidc_settings import secure
from registry.trust.checkpoint import parse_witness_key
from registry.trust.errors import Invalid, NotFound, Unavailable

MOST = 16
"""So that a checkpoint with every line still fits into a certificate."""
_LARGEST_FILE = 64 * 1024
_NEEDED = re.compile(r"needed ([0-9]{1,3})\Z")


@dataclass(frozen=True)
class Witness:
    """Somebody outside who co-signs the log. `url` is None for one that is asked by files."""

    name: str
    key: Ed25519PublicKey
    verifier_key: str
    url: str | None


@dataclass(frozen=True)
class Witnesses:
    """Those whom the facility chose, and how many of them a certificate needs."""

    all: tuple[Witness, ...] = ()
    needed: int = 0

    def named(self, name: str) -> Witness:
        """The witness of this name; NotFound where the facility chose none such."""
        for witness in self.all:
            if witness.name == name:
                return witness
        raise NotFound(f"TOUCHSTONE_WITNESSES names no witness {name[:80]!a}")


def parse_witnesses(text: str) -> Witnesses:
    """The file's content; Invalid, naming the line, where it breaks a rule."""
    found: list[Witness] = []
    needed: int | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            if words[0] == "needed":
                if needed is not None:
                    raise Invalid("`needed` stands once")
                needed = _number(" ".join(words))
            else:
                found.append(_witness(words))
        except Invalid as error:
            raise Invalid(f"line {number}: {error.message}") from error
    names = {witness.name for witness in found}
    keys = {witness.key.public_bytes_raw() for witness in found}
    if not len(names) == len(keys) == len(found):
        raise Invalid("a name or a key of a witness stands twice")
    if len(found) > MOST:
        raise Invalid(f"there are {len(found)} witnesses; at most {MOST} fit")
    if (needed or 0) > len(found):
        raise Invalid(f"{needed} witnesses are needed and {len(found)} are named")
    return Witnesses(tuple(found), needed or 0)


def read_witnesses(path: Path | None) -> Witnesses:
    """The witnesses in the file; none where there is no file named. Raises Invalid."""
    if path is None:
        return Witnesses()
    try:
        data = path.read_bytes()
        text = data.decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"TOUCHSTONE_WITNESSES: {path} can't be read as text") from error
    if len(data) > _LARGEST_FILE:
        raise Invalid(f"TOUCHSTONE_WITNESSES: {path} is too long")
    try:
        return parse_witnesses(text)
    except Invalid as error:
        raise Invalid(f"TOUCHSTONE_WITNESSES: {path}, {error.message}") from error


def configured(facility: Facility) -> Witnesses:
    """The facility's witnesses; Unavailable where the file is wrong: nothing is judged by it."""
    try:
        chosen = read_witnesses(facility.settings.witnesses)
    except Invalid as error:
        raise Unavailable(error.message, code="witnesses_unreadable") from error
    if chosen.all:
        own = log_key(facility).key.public_key()
        for witness in chosen.all:
            if witness.key == own:
                raise Unavailable(
                    f"TOUCHSTONE_WITNESSES: {witness.name} has the log's own key; a log can't be "
                    "its own witness",
                    code="witnesses_unreadable",
                )
    return chosen


def _number(line: str) -> int:
    found = _NEEDED.match(line)
    if found is None:
        raise Invalid("`needed` and a number are expected")
    return int(found[1])


def _witness(words: list[str]) -> Witness:
    if len(words) > 2:
        raise Invalid("NAME+ID+KEY and an address are expected, and no more")
    name, key = parse_witness_key(words[0])
    url = None
    if len(words) == 2:
        url = secure(words[1], f"the address of {name}").rstrip("/")
        if "?" in url:
            raise Invalid(f"the address of {name} has a query")
    return Witness(name, key, words[0], url)
