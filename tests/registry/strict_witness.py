"""A witness that follows C2SP tlog-witness to the letter, on loopback, and shares no code of ours.

    >>> with StrictWitness("witness.example/w1", folder) as witness:
    ...     witness.trust(origin, log_public_key)
    ...     witness.url, witness.verifier_key

Its tree's proofs are checked by the recursion of RFC 6962, section 2.1.2, and not by the loop of
RFC 9162 that the facility has. What it saw last lies in a file, written before it answers.
"""

import base64
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

Reply = tuple[int, str, bytes]


class StrictWitness:
    """One witness: its key, the logs that it knows, and the file of what it saw."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self._state = name, folder / "seen.json"
        self.key = Ed25519PrivateKey.generate()
        self.asked: list[bytes] = []
        self.clock = time.time
        self._logs: dict[str, Ed25519PublicKey] = {}
        self._one_at_a_time = threading.Lock()

    @property
    def verifier_key(self) -> str:
        """NAME+ID+KEY of signature type 4."""
        key = b"\x04" + self.key.public_key().public_bytes_raw()
        return f"{self.name}+{self._id().hex()}+{base64.b64encode(key).decode()}"

    def trust(self, origin: str, key: Ed25519PublicKey) -> None:
        """Watch the log of this origin from now on."""
        self._logs[origin] = key

    @contextmanager
    def forgetting(self, origin: str) -> Iterator[None]:
        """Not to know this log for a while."""
        key = self._logs.pop(origin)
        yield
        self._logs[origin] = key

    def saw(self, origin: str) -> tuple[int, bytes]:
        """(size, root) of what it co-signed last; (0, root of nothing) before the first."""
        known = json.loads(self._state.read_text()) if self._state.exists() else {}
        size, root = known.get(origin, (0, hashlib.sha256().hexdigest()))
        return size, bytes.fromhex(root)

    def add_checkpoint(self, body: bytes) -> Reply:
        """The call of the protocol: status, content type and body of the answer."""
        self.asked.append(body)
        head, separator, note = body.partition(b"\n\n")
        first, *proof_lines = head.split(b"\n")
        asked = re.fullmatch(rb"old (0|[1-9][0-9]*)", first)
        if not separator or asked is None or len(proof_lines) > 63 or not note.endswith(b"\n"):
            return 400, "text/plain", b"malformed\n"
        try:
            proof = [base64.b64decode(line, validate=True) for line in proof_lines]
            text, _, signatures = note.rpartition(b"\n\n")
            text += b"\n"
            origin, size_line, root_line = text.decode().split("\n")[:3]
            size, root = int(size_line), base64.b64decode(root_line, validate=True)
        except ValueError:
            return 400, "text/plain", b"malformed\n"
        key = self._logs.get(origin)
        if key is None:
            return 404, "text/plain", b"unknown log\n"
        if not _is_signed(text, signatures, origin, key):
            return 403, "text/plain", b"not signed by a known key\n"
        old = int(asked[1])
        if old > size:
            return 400, "text/plain", b"old is larger\n"
        with self._one_at_a_time:
            known, known_root = self.saw(origin)
            if old != known:
                return 409, "text/x.tlog.size", b"%d\n" % known
            if old == size and root != known_root:
                return 409, "text/plain", b"another root\n"
            if not _extends(known, known_root, size, root, proof):
                return 422, "text/plain", b"the proof does not verify\n"
            self._remember(origin, size, root)
        return 200, "text/plain", self.line(text)

    def line(self, text: bytes, at: int | None = None) -> bytes:
        """Its co-signature on a checkpoint's text."""
        seconds = int(self.clock()) if at is None else at
        signed = self.key.sign(b"cosignature/v1\ntime %d\n" % seconds + text)
        encoded = base64.b64encode(self._id() + seconds.to_bytes(8, "big") + signed)
        return f"— {self.name} ".encode() + encoded + b"\n"

    def _id(self) -> bytes:
        named = self.name.encode() + b"\n\x04" + self.key.public_key().public_bytes_raw()
        return hashlib.sha256(named).digest()[:4]

    def _remember(self, origin: str, size: int, root: bytes) -> None:
        known = json.loads(self._state.read_text()) if self._state.exists() else {}
        fresh = self._state.with_suffix(".new")
        with fresh.open("w") as file:
            json.dump(known | {origin: (size, root.hex())}, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._state)

    def __enter__(self) -> "StrictWitness":
        self._server = serving(self._answer)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        found = request.path == "/add-checkpoint"
        status, kind, data = self.add_checkpoint(body) if found else (404, "text/plain", b"")
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)


def serving(answer: Any) -> ThreadingHTTPServer:
    """An HTTP server on loopback that gives every POST to `answer`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


def _is_signed(text: bytes, signatures: bytes, origin: str, key: Ed25519PublicKey) -> bool:
    named = origin.encode() + b"\n\x01" + key.public_bytes_raw()
    for line in signatures.decode().splitlines():
        dash, name, encoded = line.split(" ")
        data = base64.b64decode(encoded, validate=True)
        if (dash, name, data[:4]) == ("—", origin, hashlib.sha256(named).digest()[:4]):
            try:
                key.verify(data[4:], text)
            except InvalidSignature:
                return False
            return True
    return False


def _extends(old: int, old_root: bytes, size: int, root: bytes, proof: list[bytes]) -> bool:
    if any(len(step) != 32 for step in proof):
        return False
    if old == 0:
        return not proof
    left = list(proof)
    try:
        computed = _roots(old, size, left, old_root, whole=True)
    except IndexError:
        return False
    return not left and computed == (old_root, root)


def _roots(
    old: int, size: int, proof: list[bytes], old_root: bytes, *, whole: bool
) -> tuple[bytes, bytes]:
    """(root of the first `old` leaves, root of all), by SUBPROOF of RFC 6962 read backwards."""
    if old == size:
        known = old_root if whole else proof.pop()
        return known, known
    split = 1
    while 2 * split < size:
        split *= 2
    outer = proof.pop()
    if old <= split:
        before, after = _roots(old, split, proof, old_root, whole=whole)
        return before, _node(after, outer)
    before, after = _roots(old - split, size - split, proof, old_root, whole=False)
    return _node(outer, before), _node(outer, after)


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
