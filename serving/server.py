"""Serving a verified bundle: BentoML in front, the sandboxed model behind, on one port.

    python -m serving.server nodules-3 --root root.pem --port 8500

Rules
-----
1. The bundle is verified first, and the golden vectors are replayed in the very process that will
   answer. What does not verify is not served.
2. What is served are the bytes that were verified, held in memory. Nothing in the directory is
   ever executed or imported, and changing it later changes nothing.
3. It runs in the foreground. Ctrl-C, SIGTERM and a closed terminal stop it and bury the sandbox.
4. It listens on this machine alone unless told otherwise, and has no accounts of its own: a
   wider address belongs behind the hospital's gateway.
"""

import argparse
import contextlib
import dataclasses
import datetime as dt
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from cryptography import x509

from registry.trust.errors import TouchstoneError
from registry.trust.keys import load_certificate
from serving.bundle.acknowledged import acknowledged
from serving.bundle.policy import Policy
from serving.bundle.verify import VerifyResult, verify
from serving.listening import LOOPBACK, Say, listen, prepare, run, stoppable, to_stderr
from serving.sandbox.limits import Limits

PORT = 8500
WAITING = 16
SERVING_LIMITS = Limits(cpu_seconds=365 * 86_400)
"""As at the facility, but for the CPU time of a process that may run for months."""


def now() -> dt.datetime:
    """The present, in UTC."""
    return dt.datetime.now(dt.UTC)


def serve(
    directory: Path,
    root: x509.Certificate,
    policy: Policy = Policy(),  # noqa: B008 - frozen
    *,
    host: str = "127.0.0.1",
    port: int = PORT,
    limits: Limits = SERVING_LIMITS,
    waiting: int = WAITING,
    clock: Callable[[], dt.datetime] = now,
    say: Say = to_stderr,
) -> None:
    """Verify the bundle in `directory` under `root` and serve it until stopped.

    limits: of the sandboxed process; waiting: how many requests may be held at once; port 0 picks
    a free one. Raises what verification found, Unavailable when the port is taken (port_in_use)
    or a part is not installed (not_installed).
    """
    prepare()
    with (
        contextlib.suppress(KeyboardInterrupt),
        stoppable(),
        contextlib.closing(listen(host, port)) as listener,
    ):
        verified = _verified(directory, root, policy, clock(), say)
        _serve(verified, listener, host, limits, waiting, clock, say)


def _verified(
    directory: Path, root: x509.Certificate, policy: Policy, at: dt.datetime, say: Say
) -> VerifyResult:
    """All steps but the replay, which the serving process itself makes; keeps the bytes."""
    result = verify(directory, root, at, policy, replay=False, keep=True)
    for step in result.steps:
        if step.outcome != "skipped":
            say(f"{'ok  ' if step.ok else 'FAIL'}  {step.name}: {step.sentence}")
    result.raise_if_failed()
    return result


def _serve(
    verified: VerifyResult,
    listener: socket.socket,
    host: str,
    limits: Limits,
    waiting: int,
    clock: Callable[[], dt.datetime],
    say: Say,
) -> None:
    from serving.front import bento
    from serving.routes import Endpoints
    from serving.worker import Worker

    worker = Worker(verified, limits=limits, waiting=waiting)
    with contextlib.closing(worker):
        replayed = worker.start()
        say(
            f"ok    golden vectors: {replayed.cases} made-up cases in {replayed.calls} calls, at "
            f"most {replayed.largest_difference:.2g} from the facility's scores"
        )
        app = bento(Endpoints(verified, worker, clock).app())
        run(app, listener, lambda: _announce(verified, listener, host, say))


def _announce(verified: VerifyResult, listener: socket.socket, host: str, say: Say) -> None:
    assert verified.certificate is not None
    predicate = verified.certificate.predicate
    shown, port = listener.getsockname()[:2]
    address = f"[{shown}]" if ":" in shown else shown
    say(
        f"serving {predicate.model.organisation}/{predicate.model.name} {predicate.model.version} "
        f"on http://{address}:{port}: investigational, {predicate.pilot_mode} mode, until "
        f"{predicate.not_after:%Y-%m-%d}. Stop with Ctrl-C"
    )
    if verified.demo_root:
        say("DEMO ROOT: NOT FOR PATIENTS")
    if not host.startswith(LOOPBACK):
        say(f"listening on {host} without accounts: keep it behind your own gateway")


def main(arguments: list[str] | None = None) -> int:
    """`python -m serving.server`; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m serving.server", description=serve.__doc__)
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
        serve(
            given.directory,
            load_certificate(given.root),
            Policy(
                allow_demo=given.allow_demo,
                acknowledged=acknowledged(given.state) if given.state else {},
            ),
            host=given.host,
            port=given.port,
            limits=dataclasses.replace(SERVING_LIMITS, wall_seconds=given.seconds),
            waiting=given.waiting,
        )
    except TouchstoneError as error:
        to_stderr(error.message)
        return 1
    to_stderr("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
