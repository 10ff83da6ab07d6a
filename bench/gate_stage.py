"""The two servers that `bench.gate` compares, on one PostgreSQL, each started as people start it.

    with stage() as (gate, bare):
        ...

Rules
-----
1. Ours is the process that `touchstone up` runs as the registry; theirs is `mlflow server` with
   one worker, jobs off, files served. Both listen on loopback and keep files on the same disk.
2. Every process is stopped by its own id. Who listens on a port is checked, not assumed.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg

from registry.database.embedded import EmbeddedPostgres, discard
from registry.settings import SILENCE, Databases, read_settings
from registry.setup import embedded_databases, set_up

READY_SECONDS = 180.0


@dataclass
class Server:
    """One of the two: how to start it, and where it is once it runs."""

    name: str
    arguments: list[str]
    environment: dict[str, str]
    port: int
    ready: str
    artifacts: Path
    log: Path
    token: str = ""
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The tracking address."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> float:
        """Start it; returns the seconds until it answered."""
        self.stop()
        began = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.arguments, env=self.environment, cwd=self.artifacts,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        while not self._answers():
            seconds = time.monotonic() - began
            if self.process.poll() is not None or seconds > READY_SECONDS:
                raise SystemExit(f"{self.name} did not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.02)
        seconds = time.monotonic() - began
        if not set(_listeners(self.port)) & set(self.processes()):
            raise SystemExit(f"somebody else listens on {self.port}")
        return seconds

    def stop(self) -> None:
        """Stop it, and what it started."""
        if self.process is None:
            return
        family = self.processes()
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for process in family:
            if Path(f"/proc/{process}").exists() and process != self.process.pid:
                os.kill(process, 9)
        self.process = None

    def processes(self) -> list[int]:
        """The process and its descendants."""
        assert self.process is not None
        found, children = [self.process.pid], _children()
        for process in found:
            found += children.get(process, [])
        return found

    def resident(self) -> list[float]:
        """MiB of resident memory, largest process first."""
        sizes = []
        for process in self.processes():
            status = Path(f"/proc/{process}/status").read_text()
            sizes.append(int(status.split("VmRSS:")[1].split()[0]) / 1024)
        return sorted(sizes, reverse=True)

    def _answers(self) -> bool:
        try:
            return httpx.get(self.url + self.ready, timeout=2, trust_env=False).is_success
        except httpx.TransportError:
            return False


@contextmanager
def stage() -> Iterator[tuple[Server, Server]]:
    """(the gate, the bare server): both prepared, neither started."""
    home = Path(tempfile.mkdtemp(prefix="touchstone-bench-"))
    home.chmod(0o711)
    kept = {key: value for key, value in os.environ.items()
            if not key.startswith(("TOUCHSTONE_", "MLFLOW_", "_MLFLOW_"))} | SILENCE  # fmt: skip
    try:
        with ExitStack() as stack:
            facility = {"TOUCHSTONE_HOME": str(home / "facility"),
                        "TOUCHSTONE_KEYS": str(home / "keys")}  # fmt: skip
            settings = read_settings(facility)
            cluster, databases = stack.enter_context(embedded_databases(settings))
            set_up(settings, databases)
            gate = _gate(home, kept | facility, databases)
            bare = _bare(home, kept, cluster)
            stack.callback(gate.stop)
            stack.callback(bare.stop)
            gate.start()
            gate.token = _token(gate, settings.admin_token.read_text().strip())
            bare.start()  # it makes its tables
            yield gate, bare
    finally:
        discard(home / "facility" / "postgres")
        shutil.rmtree(home, ignore_errors=True)


def _gate(home: Path, environment: dict[str, str], databases: Databases) -> Server:
    port = _free_port()
    return Server(
        name="gate",
        arguments=[sys.executable, "-m", "registry.cli.main", "server",
                   "--host", "127.0.0.1", "--port", str(port)],
        environment=environment | databases.environment("registry")
        | {"PYTHONPATH": str(Path.cwd())},
        port=port, ready="/health/ready", artifacts=home / "facility" / "artifacts",
        log=home / "gate.log",
    )  # fmt: skip


def _bare(home: Path, environment: dict[str, str], cluster: EmbeddedPostgres) -> Server:
    with psycopg.connect(cluster.superuser_dsn, autocommit=True) as connection:
        connection.execute("CREATE DATABASE bare")
    database = cluster.superuser_dsn.replace("postgresql://", "postgresql+psycopg://")
    artifacts = home / "bare"
    artifacts.mkdir()
    port = _free_port()
    return Server(
        name="bare",
        arguments=[str(Path(sys.executable).with_name("mlflow")), "server", "--workers", "1",
                   "--host", "127.0.0.1", "--port", str(port), "--serve-artifacts",
                   "--backend-store-uri", database.replace("@/touchstone?", "@/bare?"),
                   "--artifacts-destination", str(artifacts)],
        environment=environment | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        port=port, ready="/health", artifacts=artifacts, log=home / "bare.log",
    )  # fmt: skip


def _token(gate: Server, admin: str) -> str:
    """An SME and the token of one of its people."""
    with httpx.Client(
        base_url=gate.url, headers={"Authorization": f"Bearer {admin}"}, trust_env=False
    ) as http:
        new = {"id": "sme", "kind": "sme", "name": "Sme"}
        http.post("/api/v1/organisations", json=new).raise_for_status()
        new = {"organisation": "sme", "role": "innovator", "person": "Eva"}
        return str(http.post("/api/v1/tokens", json=new).raise_for_status().json()["token"])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _children() -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            process, _, rest = status.read_text().partition(" ")
        except OSError:
            continue
        parent = int(rest.rpartition(")")[2].split()[1])
        children.setdefault(parent, []).append(int(process))
    return children


def _listeners(port: int) -> Iterator[int]:
    """The processes that hold a socket listening on this port of 127.0.0.1."""
    sockets = {
        f"socket:[{fields[9]}]"
        for fields in map(str.split, Path("/proc/net/tcp").read_text().splitlines()[1:])
        if fields[1] == f"0100007F:{port:04X}" and fields[3] == "0A"
    }
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(descriptor.readlink()) in sockets:
                yield int(descriptor.parts[2])
        except OSError:
            continue
