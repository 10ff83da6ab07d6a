"""Checkpoints of the log, in the text form of C2SP (signed-note, tlog-checkpoint, cosignature/v1).

    >>> note = sign(Checkpoint(origin, tree.size, tree.root()), key)     # bytes, to be stored
    >>> verified(note, origin, key.public_key()).size
    >>> witnessed = with_line(note, cosignature_line(note, witness))     # anybody, later

Rules
-----
1. A note is text, an empty line, and one line a signature. What is signed is the text, to the byte.
2. There is one spelling: whatever parses and is written again gives the same bytes.
3. A line of a key that nobody asked about is kept and believed by nobody. A line of the log's own
   key that does not fit makes the whole note worthless.
4. A checkpoint of another origin is another log's, whoever signed it.

The key of the log is Ed25519, because that is what the witnesses that exist can check; whose key it
is, is said by a certificate under the facility's root (`registry.trust.log_key`).
"""

import base64
import binascii
import datetime as dt
import hashlib
import re
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from registry.trust.errors import Invalid, Refused, Tampered

LONGEST = 64 * 1024
MOST_SIGNATURES = 64
_LOG, WITNESS = 1, 4  # signature types of C2SP
_NAME = re.compile(r"[^\s+\x00-\x1f\x7f]{1,255}\Z")
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}\Z")
_ID_BYTES, _TIME_BYTES, _SIGNATURE_BYTES, _HASH_BYTES = 4, 8, 64, 32
_LAST_SECOND = 253_402_300_799  # of the year 9999


@dataclass(frozen=True)
class Checkpoint:
    """The state of a log at one size."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()
    """Lines that C2SP allows and advises against; ours has none. Kept where they are found."""

    def text(self) -> bytes:
        """What is signed."""
        root = base64.b64encode(self.root).decode()
        return "".join(
            line + "\n" for line in (self.origin, str(self.size), root, *self.extensions)
        ).encode()


@dataclass(frozen=True)
class Line:
    """One signature line: who says to have signed, by which key, and the signature's bytes."""

    name: str
    key_id: bytes
    signature: bytes

    def text(self) -> bytes:
        """The line as it stands in a note, with its newline."""
        encoded = base64.b64encode(self.key_id + self.signature).decode()
        return f"— {self.name} {encoded}\n".encode()


def key_id(name: str, public: Ed25519PublicKey, kind: int = _LOG) -> bytes:
    """The four bytes that tell which key of `name` made a signature of this kind."""
    named = name.encode() + b"\n" + bytes([kind]) + public.public_bytes_raw()
    return hashlib.sha256(named).digest()[:_ID_BYTES]


def check_origin(origin: str) -> str:
    """`origin`, if it can be one: no spaces, no plus, no control characters; Invalid otherwise."""
    if not _NAME.match(origin):
        raise Invalid(f"{origin[:80]!a} can't be the origin of a log")
    return origin


def sign(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> bytes:
    """The checkpoint as a note that the log itself signed. The same bytes whenever it is asked."""
    name = check_origin(checkpoint.origin)
    line = Line(name, key_id(name, key.public_key()), key.sign(checkpoint.text()))
    return checkpoint.text() + b"\n" + line.text()


def parse(note: bytes) -> tuple[Checkpoint, tuple[Line, ...]]:
    """(checkpoint, signature lines) of a note, its form checked and no signature."""
    if len(note) > LONGEST:
        raise _malformed(f"it is longer than {LONGEST} bytes")
    text, empty, lines = note.rpartition(b"\n\n")
    if not empty:
        raise _malformed("it has no empty line before the signatures")
    checkpoint = _checkpoint_of(text + b"\n")
    if not lines:
        raise _malformed("nobody signed it")
    if not lines.endswith(b"\n"):
        raise _malformed("its last line does not end")
    signatures = tuple(_line_of(line) for line in lines[:-1].split(b"\n"))
    if len(signatures) > MOST_SIGNATURES:
        raise _malformed(f"it has more than {MOST_SIGNATURES} signatures")
    if (checkpoint.text() + b"\n" + b"".join(line.text() for line in signatures)) != note:
        raise _malformed("it is not written in the one way that its content has")
    return checkpoint, signatures


def verified(note: bytes, origin: str, public: Ed25519PublicKey) -> Checkpoint:
    """The checkpoint in a note, if the log `origin` signed it with this key.

    Raises Invalid for a malformed note, Refused for another log's or an unsigned one, Tampered
    where the log's signature does not fit.
    """
    checkpoint, lines = parse(note)
    if checkpoint.origin != origin:
        raise Refused(
            f"this is a checkpoint of the log {checkpoint.origin}, not of {origin}",
            code="other_log",
        )
    expected = (origin, key_id(origin, public))
    own = [line for line in lines if (line.name, line.key_id) == expected]
    if not own:
        raise Refused("the checkpoint is not signed by the log's key", code="checkpoint_unsigned")
    for line in own:
        _check(line.signature, checkpoint.text(), public, "the log's signature")
    return checkpoint


def with_line(note: bytes, line: bytes) -> bytes:
    """The note with one more signature line, such as a witness sends; the same line only once."""
    _, lines = parse(note)
    added = _line_of(line.removesuffix(b"\n"))
    return note if added in lines else note + added.text()


def cosignature_line(note: bytes, name: str, witness: Ed25519PrivateKey, at: dt.datetime) -> bytes:
    """What a witness adds (cosignature/v1): it saw this state at `at`, and no other since."""
    checkpoint, _ = parse(note)
    seconds = int(at.timestamp())
    signature = witness.sign(_cosigned(checkpoint, seconds))
    stamped = seconds.to_bytes(_TIME_BYTES, "big") + signature
    return Line(check_origin(name), key_id(name, witness.public_key(), WITNESS), stamped).text()


def witnessed_at(note: bytes, name: str, witness: Ed25519PublicKey) -> dt.datetime:
    """When the witness `name` saw this checkpoint; Refused if it has not, Tampered if misquoted."""
    checkpoint, lines = parse(note)
    expected = (name, key_id(name, witness, WITNESS))
    times = []
    for line in lines:
        if (line.name, line.key_id) == expected:
            if len(line.signature) != _TIME_BYTES + _SIGNATURE_BYTES:
                raise Tampered(f"the cosignature of {name} has another length than it must have")
            stamp, signature = line.signature[:_TIME_BYTES], line.signature[_TIME_BYTES:]
            seconds = int.from_bytes(stamp, "big")
            if seconds > _LAST_SECOND:
                raise Tampered(f"the cosignature of {name} has a time that can't be one")
            _check(signature, _cosigned(checkpoint, seconds), witness, f"the cosignature of {name}")
            times.append(seconds)
    if not times:
        raise Refused(f"{name} has not co-signed this checkpoint", code="not_witnessed")
    return dt.datetime.fromtimestamp(max(times), dt.UTC)


def verifier_key(name: str, public: Ed25519PublicKey, kind: int = _LOG) -> str:
    """The key as witnesses are told it (vkey): name, key id and key in one line."""
    encoded = base64.b64encode(bytes([kind]) + public.public_bytes_raw()).decode()
    return f"{name}+{key_id(name, public, kind).hex()}+{encoded}"


def parse_witness_key(text: str) -> tuple[str, Ed25519PublicKey]:
    """(name, key) of a witness's vkey."""
    name, _, rest = text.strip().partition("+")
    identifier, _, encoded = rest.partition("+")
    try:
        data = base64.b64decode(encoded, validate=True)
        public = Ed25519PublicKey.from_public_bytes(data[1:])
    except (ValueError, binascii.Error) as error:
        raise Invalid("this is not a witness's key: NAME+ID+KEY is expected") from error
    if data[0] != WITNESS or key_id(check_origin(name), public, WITNESS).hex() != identifier:
        raise Invalid("this is not a witness's Ed25519 key, or its id does not fit it")
    return name, public


def _cosigned(checkpoint: Checkpoint, seconds: int) -> bytes:
    return b"cosignature/v1\ntime %d\n" % seconds + checkpoint.text()


def _check(signature: bytes, text: bytes, public: Ed25519PublicKey, whose: str) -> None:
    try:
        public.verify(signature, text)
    except InvalidSignature as error:
        raise Tampered(f"{whose} does not fit this checkpoint", code="checkpoint_forged") from error


def _checkpoint_of(text: bytes) -> Checkpoint:
    try:
        lines = text.decode().split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise _malformed("it is not UTF-8") from error
    if len(lines) < 3:
        raise _malformed("origin, size and root are expected")
    origin, size, root, *extensions = lines
    if not _NAME.match(origin):
        raise _malformed("its origin has a space, a plus or a control character")
    if not _SIZE.match(size) or int(size) >= 1 << 63:
        raise _malformed("its size is not a plain number")
    if any(not line or re.search(r"[\x00-\x1f\x7f]", line) for line in extensions):
        raise _malformed("a line is empty or holds a control character")
    digest = _base64(root)
    if len(digest) != _HASH_BYTES:
        raise _malformed("its root is not a SHA-256 hash")
    return Checkpoint(origin, int(size), digest, tuple(extensions))


def _line_of(line: bytes) -> Line:
    try:
        dash, name, encoded = line.decode().split(" ")
    except ValueError as error:
        raise _malformed("a signature line is not a dash, a name and a signature") from error
    if dash != "—" or not _NAME.match(name):
        raise _malformed("a signature line is not a dash, a name and a signature")
    data = _base64(encoded)
    if len(data) <= _ID_BYTES:
        raise _malformed("a signature is too short to be one")
    return Line(name, data[:_ID_BYTES], data[_ID_BYTES:])


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise _malformed("a part of it is not base64") from error


def _malformed(reason: str) -> Invalid:
    return Invalid(f"this is not a checkpoint: {reason}", code="checkpoint_malformed")
