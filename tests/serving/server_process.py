"""A server in a process of its own: what it says is kept, and it is stopped by its own id."""

import re
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class ServerProcess:
    """Started at once; `url` is the address that it told, "" where it ended before.

    lines: what it said so far, to the last one once it was stopped.
    """

    def __init__(self, command: Sequence[str], address: re.Pattern[str], **more: Any) -> None:
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **more)
        self.lines: list[str] = []
        self.url = ""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip())
            if found := address.search(line):
                self.url = found[1]
                break
        self._rest = threading.Thread(target=self._read)
        self._rest.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(line.rstrip() for line in self.process.stderr)

    def children(self) -> list[int]:
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(pid) for task in tasks for pid in task.read_text().split()]

    def stop(self, number: int = signal.SIGINT) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(30)
        self._rest.join(30)
        return status
