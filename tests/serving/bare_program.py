"""`serving.server.serve` without any status, in a process of its own: what a hospital never does.

python -m tests.serving.bare_program BUNDLE --root FILE --state DIR --allow-demo
"""

import argparse
import dataclasses
import os
import sys
from functools import partial
from pathlib import Path

from registry.trust.errors import TouchstoneError
from registry.trust.keys import load_certificate
from serving.bundle.acknowledged import acknowledged
from serving.bundle.policy import Policy
from serving.inference.traces import ENDPOINT
from serving.listening import to_stderr
from serving.server import PORT, SERVING_LIMITS, WAITING, Settings, serve


def _policy(state: Path | None, allow_demo: bool) -> Policy:
    return Policy(allow_demo=allow_demo, acknowledged=acknowledged(state) if state else {})


def main(arguments: list[str] | None = None) -> int:
    """Serve until stopped; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--root", type=Path, required=True, help="the root that you pinned (PEM)")
    parser.add_argument("--state", type=Path, help="what this hospital remembers")
    parser.add_argument("--allow-demo", action="store_true", help="take a demo's root")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--seconds", type=float, default=30.0, help="time limit of one call")
    parser.add_argument("--waiting", type=int, default=WAITING, help="requests held at once")
    given = parser.parse_args(arguments)
    try:
        settings = Settings(
            host=given.host,
            port=given.port,
            limits=dataclasses.replace(SERVING_LIMITS, wall_seconds=given.seconds),
            waiting=given.waiting,
            collector=os.environ.get(ENDPOINT),
        )
        asked = partial(_policy, given.state, given.allow_demo)
        serve(given.directory, load_certificate(given.root), settings, policy_of=asked)
    except TouchstoneError as error:
        to_stderr(error.message)
        return 1
    to_stderr("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
