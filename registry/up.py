"""Everything on one machine, in one terminal: Postgres, the registry, one worker.

Rules
-----
1. Ready means ready: the address is printed after the registry has answered.
2. Ctrl-C (or SIGTERM) stops all of it, in order, by process id. Nothing stays but the data.
3. What dies is started again: Postgres, then those that lived on it. Work is resumed from the
   record, so that a crash costs time and nothing else.
4. A part that dies over and over is not hidden: `up` stops and says which, and where its log is.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import httpx

from registry.database.embedded import EmbeddedPostgres
from registry.mlflow_gate.artifacts import open_artifacts
from registry.settings import SILENCE, Databases, Settings
from registry.setup import embedded_databases, lay_ground, set_up
from registry.storage.opening import open_store
from registry.trust.errors import Conflict, Unavailable

READY_SECONDS = 90.0
STOP_SECONDS = 15.0
_MANY, _WINDOW = 5, 60.0
_TO_BOTH = (
    "TOUCHSTONE_IMAGE_DIGEST",
    "TOUCHSTONE_KEY_ENCRYPTION",
    "TOUCHSTONE_KMS_",
    "TOUCHSTONE_PKCS11_",
    "TOUCHSTONE_WITNESSES",
)
_TO_REGISTRY = (
    "TOUCHSTONE_CATALOGUE",
    "TOUCHSTONE_LIMIT_",
    "TOUCHSTONE_LOGIN_HOURS",
    "TOUCHSTONE_OIDC_",
    "TOUCHSTONE_PUBLIC_URL",
    "TOUCHSTONE_TRUSTED_PROXIES",
)
_TO_WORKER = ("TOUCHSTONE_DEVICE", "TOUCHSTONE_INFERENCE")


class Part:
    """A child process that is started again when it dies."""

    def __init__(self, name: str, arguments: list[str], log: Path) -> None:
        self.name, self.log = name, log
        self._arguments = arguments
        self._starts: list[float] = []
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, environment: dict[str, str]) -> None:
        """Start it, in a session of its own so that Ctrl-C reaches only `up`."""
        now = time.monotonic()
        self._starts = [*[at for at in self._starts if now - at < _WINDOW], now]
        if len(self._starts) > _MANY:
            raise Unavailable(f"the {self.name} stops again and again; see {self.log}")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # our own interpreter, our own module
                [sys.executable, "-m", "registry.cli.main", *self._arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def alive(self) -> bool:
        """Whether it is running."""
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        """Ask it to stop; insist after a while."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def up(
    settings: Settings,
    *,
    host: str,
    port: int,
    allow_unsandboxed: bool,
    announce: Callable[[str], None],
) -> None:
    """Run until SIGINT or SIGTERM. Raises Conflict when the port is taken."""
    check_port(host, port)
    stopping: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        stopping.append(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    logs = settings.home / "logs"
    with embedded_databases(settings) as (cluster, databases):
        announce(f"database   PostgreSQL in {settings.home / 'postgres'}")
        lay_ground(settings)
        open_store(settings)  # what is wrong with a bucket is said here, not in a log
        open_artifacts(settings)
        logs.mkdir(exist_ok=True, mode=0o700)
        unsandboxed = ["--allow-unsandboxed"] if allow_unsandboxed else []
        parts = [
            Part(
                "registry", ["server", "--host", host, "--port", str(port)], logs / "registry.log"
            ),
            Part("worker", ["worker", *unsandboxed], logs / "worker.log"),
        ]
        try:
            # The registry takes seconds to import MLflow: it does so while the tables are made.
            parts[0].start(_environment(settings, databases, parts[0]))
            made = set_up(settings, databases)
            parts[1].start(_environment(settings, databases, parts[1]))
            address = f"http://{host}:{port}"
            _wait_until_ready(address, parts, stopping)
            if not stopping:
                announce(f"registry   {address} (also the MLflow tracking URI)")
                announce(f"worker     CPU, log {parts[1].log}")
                if made.demo_root:
                    announce("root       a demo's own: not for patients")
                announce(f"admin      {settings.admin_token}")
                announce("ready; Ctrl-C stops it all")
            _watch(settings, cluster, databases, parts, stopping, announce)
        finally:
            for part in reversed(parts):
                part.stop()


def _watch(
    settings: Settings,
    cluster: EmbeddedPostgres,
    databases: Databases,
    parts: list[Part],
    stopping: list[int],
    announce: Callable[[str], None],
) -> None:
    """Keep everything running until a signal comes."""
    while not stopping:
        if not cluster.alive():
            announce("the database stopped; starting it again")
            cluster.start()
        for part in parts:
            if not part.alive():
                announce(f"the {part.name} stopped; starting it again (log {part.log})")
                part.start(_environment(settings, databases, part))
        time.sleep(0.5)


def _environment(settings: Settings, databases: Databases, part: Part) -> dict[str, str]:
    """A child's environment: ours without the caller's token and the owner's connection."""
    passed_on = _TO_BOTH + (_TO_REGISTRY if part.name == "registry" else _TO_WORKER)
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("TOUCHSTONE_", "MLFLOW_")) or key.startswith(passed_on)
    }
    return {
        **kept,
        **SILENCE,
        **databases.environment("worker" if part.name == "worker" else "registry"),
        **(settings.s3.environment() if settings.s3 else {}),
        "TOUCHSTONE_HOME": str(settings.home),
        "TOUCHSTONE_KEYS": str(settings.home / "no-keys-here"),
        "TOUCHSTONE_UP_PID": str(os.getpid()),
    }


def check_port(host: str, port: int) -> None:
    """Raise Conflict, naming the port, when something listens there already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise Conflict(
                f"port {port} on {host} is in use ({error.strerror}); stop what listens there, "
                "or choose another with --port"
            ) from error


def _wait_until_ready(address: str, parts: list[Part], stopping: list[int]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    registry = parts[0]
    while not stopping:
        if not registry.alive():
            raise Unavailable(f"the registry did not start; see {registry.log}")
        try:
            if httpx.get(f"{address}/health/ready", timeout=2, trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        if time.monotonic() > deadline:
            raise Unavailable(f"the registry is not ready after 90 s; see {registry.log}")
        time.sleep(0.1)
