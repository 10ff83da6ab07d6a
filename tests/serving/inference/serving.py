"""`python -m serving.inference.server` in a process of its own, stopped by its own id."""

import http.client
import re
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from registry.trust.canonical import hex_of
from registry.trust.model_files import model_digest
from serving.inference.line import Address
from tests.serving import hostile

REPOSITORY = Path(__file__).parents[3]
TOKEN = "a-token-of-a-test-that-is-long-enough"
FOUND = re.compile(r"inference on (\S+)")


def place(models: Path, files: dict[str, bytes]) -> str:
    """Put a model where the server looks; its digest."""
    digest = model_digest(files)
    directory = models / hex_of(digest)
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return digest


class Server:
    """A running server; `lines` is all that it said."""

    def __init__(self, directory: Path, *arguments: str, **environment: str) -> None:
        self.models = directory / "models"
        self.models.mkdir(exist_ok=True, parents=True)
        (directory / "token").write_text(TOKEN + "\n")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "serving.inference.server", "--models", str(self.models),
             "--token", str(directory / "token"), *arguments],
            cwd=REPOSITORY, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={"PATH": "/usr/bin:/bin", "HOME": str(directory), **environment},
        )  # fmt: skip
        self.lines: list[str] = []
        self.address = ""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip())
            if found := FOUND.search(line):
                self.address = found[1]
                break
        assert self.address, self.lines
        self._rest = threading.Thread(target=self._read)
        self._rest.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """host:port, as tritonclient asks for it."""
        return self.address.removeprefix("http://")

    def children(self) -> list[int]:
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(pid) for task in tasks for pid in task.read_text().split()]

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(30)
        self._rest.join(30)
        return status

    def ask(
        self, method: str, path: str, body: bytes = b"", *, token: str = TOKEN, **headers: Any
    ) -> tuple[int, bytes]:
        """One plain request."""
        named = {name.replace("_", "-"): str(value) for name, value in headers.items()}
        address = Address.of(self.address)
        line = http.client.HTTPConnection(address.host, address.port, timeout=20)
        try:
            line.request(method, path, body, {"Authorization": f"Bearer {token}", **named})
            response = line.getresponse()
            return response.status, response.read()
        finally:
            line.close()

    def raw(self, text: bytes, seconds: float = 20) -> bytes:
        """The first bytes that come back for `text`, whatever it is."""
        address = Address.of(self.address)
        with socket.create_connection((address.host, address.port), timeout=seconds) as line:
            line.sendall(text)
            return line.recv(65536)

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(line.rstrip() for line in self.process.stderr)


@dataclass(frozen=True)
class Shard:
    index: int
    cases: tuple[str, ...]
    inputs: dict[str, np.ndarray[Any, Any]]


def shard(cases: int, *, index: int = 0, odd: tuple[int, ...] = ()) -> Shard:
    """Cases whose first descriptor is below 2, but 9 for those at the positions `odd`."""
    inputs = hostile.cases(cases, seed=index)
    inputs["descriptors"] = np.minimum(inputs["descriptors"], 1.9)
    for position in odd:
        inputs["descriptors"][position, 0] = 9
    return Shard(index, tuple(f"case-{n}" for n in range(cases)), inputs)
