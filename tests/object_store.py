"""A real S3 server for the tests: SeaweedFS on loopback, with Object Lock and real identities.

    >>> def test_something(s3_server: S3Server) -> None:
    ...     store = open_s3(s3_server.settings())      # two fresh buckets, prepared

Rules
-----
1. One server a session, on free ports of 127.0.0.1, stopped by its process id.
2. Three identities, as in production: one prepares buckets, one reads and writes `objects…`
   buckets, one `artifacts…` buckets. The server itself refuses each what is another's.
3. Each test that writes takes buckets of its own: a locked object can't be cleaned away.
"""

import datetime as dt
import ipaddress
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from registry.storage.s3_check import prepare
from registry.storage.s3_settings import BucketSettings, Credential, S3Settings

_ACTIONS = ("Read", "Write", "List", "PutObjectRetention", "GetBucketObjectLockConfiguration")
IDENTITIES = {
    "prepare": ["Admin"],
    "objects": [f"{action}:objects*" for action in _ACTIONS],
    "artifacts": [f"{action}:artifacts*" for action in _ACTIONS],
}
_PORTS = (
    "s3.port", "s3.port.https", "s3.port.grpc", "filer.port", "filer.port.grpc", "master.port",
    "master.port.grpc", "volume.port", "volume.port.grpc", "admin.port", "admin.port.grpc",
)  # fmt: skip
_SIGNING = ("WEED_JWT_SIGNING_KEY", "WEED_JWT_FILER_SIGNING_KEY", "WEED_JWT_FILER_SIGNING_READ_KEY")


@dataclass(frozen=True)
class S3Server:
    """Where the server is, and each identity's access key and secret."""

    endpoint: str
    secure_endpoint: str
    ca_file: Path
    keys: Mapping[str, tuple[str, str]]
    process: int

    def settings(self, **changed: Any) -> S3Settings:
        """Two fresh buckets, made by `prepare`, each with its own identity's credential."""
        name = uuid.uuid4().hex[:12]
        credentials = {one: Credential(*keys) for one, keys in self.keys.items()}
        settings = S3Settings(
            endpoint=self.endpoint,
            region="us-east-1",
            ca_file=None,
            objects=BucketSettings(f"objects-{name}", credentials["objects"], 30),
            artifacts=BucketSettings(f"artifacts-{name}", credentials["artifacts"], 5),
            prepare=credentials["prepare"],
        )
        prepare(settings)
        return replace(settings, **changed)

    def client(self, identity: str = "prepare") -> Any:
        """A plain client of one identity, as an attacker who holds its keys would make one."""
        access, secret = self.keys[identity]
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=access,
            aws_secret_access_key=secret,
            region_name="us-east-1",
            config=Config(
                connect_timeout=5,
                read_timeout=30,
                retries={"total_max_attempts": 1},
                s3={"addressing_style": "path"},
                proxies={},
            ),
        )


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One server for the session."""
    home = Path(tempfile.mkdtemp(prefix="touchstone-s3-"))
    keys = {name: (f"{name.upper()}KEY", secrets.token_hex(16)) for name in IDENTITIES}
    (home / "s3.json").write_text(json.dumps(_identities(keys)))
    _certificate(home)
    ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
    command = [
        str(Path(sys.executable).parent / "weed"), "mini", f"-dir={home / 'data'}",
        "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-admin.ui=false",
        "-webdav=false", f"-s3.config={home / 's3.json'}", "-s3.port.iceberg=0",
        f"-s3.cert.file={home / 'cert.pem'}", f"-s3.key.file={home / 'key.pem'}",
        "-s3.port.lance=0", "-s3.allowDeleteBucketNotEmpty=false", "-s3.autoCreateBucket=false",
        *(f"-{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip
    (home / "data").mkdir()
    log = home / "weed.log"
    with log.open("wb") as output:
        # Without signing keys of its own, its filer's port would delete what the S3 port locks.
        server = subprocess.Popen(
            command,
            cwd=home,
            env={**os.environ, **{name: secrets.token_hex(32) for name in _SIGNING}},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        made = S3Server(
            f"http://127.0.0.1:{ports['s3.port']}",
            f"https://127.0.0.1:{ports['s3.port.https']}",
            home / "cert.pem",
            keys,
            server.pid,
        )
        _wait(server, made, log)
        yield made
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        shutil.rmtree(home, ignore_errors=True)


def _identities(keys: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    return {
        "identities": [
            {
                "name": name,
                "credentials": [{"accessKey": access, "secretKey": secret}],
                "actions": IDENTITIES[name],
            }
            for name, (access, secret) in keys.items()
        ]
    }


def _certificate(home: Path) -> None:
    """A certificate for 127.0.0.1 that only those trust who are told to."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "S3 for tests")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (home / "cert.pem").write_bytes(certificate.public_bytes(pem))
    (home / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _wait(server: subprocess.Popen[bytes], made: S3Server, log: Path) -> None:
    """Until a bucket can be made: the port answers long before the server can store anything."""
    client = made.client()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            client.create_bucket(Bucket="ready")
            client.put_object(Bucket="ready", Key="ready", Body=b"ready")
        except (BotoCoreError, ClientError):
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"the S3 server did not start:\n{log.read_text()[-4000:]}")
