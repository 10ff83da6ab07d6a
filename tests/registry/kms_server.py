"""A KMS on loopback that speaks AWS's protocol for `Encrypt` and `Decrypt`, and really encrypts.

The encryption context is the associated data, as in AWS: another context opens nothing.
"""

import base64
import json
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


@dataclass
class KmsServer:
    """Its address, its keys, and what it was asked."""

    address: str = ""
    keys: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def environment(self, folder: Path) -> dict[str, str]:
        """The settings that lead to it."""
        file = folder / "kms-credentials"
        file.write_text("AKIDEXAMPLE\nsecret\n")
        file.chmod(0o600)
        return {"TOUCHSTONE_KMS_ENDPOINT": self.address, "TOUCHSTONE_KMS_CREDENTIALS": str(file)}

    def answer(self, verb: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and JSON."""
        context = body.get("EncryptionContext", {})
        self.asked.append((verb, context))
        key = self.keys.get(body["KeyId"])
        if key is None:
            return 400, {"__type": "NotFoundException", "message": "no such key"}
        bound = json.dumps(context, sort_keys=True).encode()
        if verb == "Encrypt":
            nonce = secrets.token_bytes(12)
            plain = base64.b64decode(body["Plaintext"])
            blob = nonce + AESGCM(key).encrypt(nonce, plain, bound)
            return 200, {"CiphertextBlob": base64.b64encode(blob).decode(), "KeyId": body["KeyId"]}
        blob = base64.b64decode(body["CiphertextBlob"])
        try:
            plain = AESGCM(key).decrypt(blob[:12], blob[12:], bound)
        except (InvalidTag, ValueError):
            return 400, {"__type": "InvalidCiphertextException", "message": ""}
        return 200, {"Plaintext": base64.b64encode(plain).decode(), "KeyId": body["KeyId"]}


@contextmanager
def kms_server() -> Iterator[KmsServer]:
    """Run one until the block is left."""
    kms = KmsServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.headers["Authorization"].startswith("AWS4-HMAC-SHA256 ")
            status, value = kms.answer(self.headers["X-Amz-Target"].split(".")[-1], body)
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        kms.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield kms
        server.shutdown()
        thread.join()
