"""The demo's stage: runs commands as a person would type them, times them, tells the story.

Every command line of the journey is a real process with its own environment: an SME's process
holds that SME's token and nothing else.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

TOUCHSTONE = [sys.executable, "-m", "registry.cli.main"]


class CommandFailed(Exception):
    """A command of the journey that should have worked did not; carries what it said."""


@dataclass
class Person:
    """Somebody of the story: a name and the environment of their terminal."""

    name: str
    environment: dict[str, str]


@dataclass
class Stage:
    """Where the journey plays, and what has happened so far."""

    home: Path
    server: str
    console: Console = field(default_factory=lambda: _console())
    steps: list[dict[str, Any]] = field(default_factory=list)
    refusals: list[dict[str, str]] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[Callable[[str], None]]:
        """One step: a moving line while it runs, one line with its time when it has ended."""
        started = time.monotonic()
        outcome = ["done"]
        with Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(pulse_style="cyan"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        ) as bar:
            bar.add_task(name, total=None)
            try:
                yield lambda said: outcome.__setitem__(0, said)
            except BaseException as error:
                outcome[0] = f"failed: {error}"
                raise
            finally:
                seconds = time.monotonic() - started
                self.steps.append({"name": name, "seconds": round(seconds, 2),
                                   "outcome": outcome[0]})  # fmt: skip
        self.console.print(f"{seconds:6.1f} s  {name}: {outcome[0]}", markup=False, soft_wrap=True)

    def person(self, name: str, token: str | None = None, **more: str) -> Person:
        """Somebody with a terminal of their own."""
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("TOUCHSTONE_", "MLFLOW_"))
        }
        # One account plays everybody here: what a keyring would keep for one is shown instead.
        own = {"TOUCHSTONE_SERVER": self.server, "PYTHONUNBUFFERED": "1",
               "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring"}  # fmt: skip
        environment = kept | own | more
        if token:
            environment["TOUCHSTONE_TOKEN"] = token
        return Person(name, environment)

    def touchstone(self, who: Person, *arguments: str | Path) -> dict[str, Any]:
        """`touchstone … --json` as `who`; CommandFailed with its one line when it refuses."""
        done = self._run(who, [*TOUCHSTONE, *map(str, arguments), "--json"])
        if done.returncode != 0:
            raise CommandFailed(_last_line(done.stderr))
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def python(self, who: Person, module: str, *arguments: str | Path) -> dict[str, Any]:
        """`python -m module …` as `who`; its last line is JSON."""
        done = self._run(who, [sys.executable, "-m", module, *map(str, arguments)])
        if done.returncode != 0:
            raise CommandFailed(_last_line(done.stderr))
        answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return answer

    def refused(self, attempt: str, action: Callable[[], object]) -> None:
        """Something that must not work: the story stops if it does."""
        try:
            action()
        except CommandFailed as refusal:
            message = str(refusal).removeprefix("error: ")
        else:
            raise CommandFailed(f"this was not refused: {attempt}")
        self.refusals.append({"attempt": attempt, "message": message})
        self.console.print(f"          refused  {attempt}: {message}", markup=False,
                           soft_wrap=True)  # fmt: skip

    def _run(self, who: Person, arguments: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            arguments, env=who.environment, capture_output=True, text=True, check=False
        )


def _console() -> Console:
    """The terminal as it is; a file gets lines of 110 characters."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=110)


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


@contextmanager
def running(
    arguments: list[str], environment: Mapping[str, str], log: Path, ready: Callable[[], bool]
) -> Iterator[subprocess.Popen[bytes]]:
    """A server as a child: waited for until `ready`, stopped by its own process id."""
    with log.open("ab") as stream:
        process = subprocess.Popen(
            arguments, env=dict(environment), stdout=stream, stderr=stream,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise CommandFailed(f"it did not start: {_last_line(log.read_text())} (see {log})")
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
