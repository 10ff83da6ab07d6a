"""Serving a verified bundle: BentoML in front, the sandboxed model behind, on one port.

    touchstone serve nodules-3 --root root.pem --port 8500

Rules
-----
1. The bundle is verified first, and the golden vectors are replayed in the very process that will
   answer. What does not verify is not served, nor what was suspended, revoked, or of no status.
2. What is served are the bytes that were verified, held in memory. Nothing in the directory is
   ever executed or imported, and changing it later changes nothing.
3. The standing is asked for again every `every` seconds (`serving.hospital.watching`).
4. A service folder names the version that answers, and lets it be replaced while it runs
   (`serving.hospital.service`).
5. It runs in the foreground. Ctrl-C, SIGTERM and a closed terminal stop it and bury the sandbox.
6. It listens on this machine alone unless told otherwise, and has no accounts of its own: a
   wider address belongs behind the hospital's gateway.
"""

import contextlib
import datetime as dt
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509

from registry.trust.errors import Invalid
from serving.bundle.policy import Policy
from serving.bundle.standing import StandingOf
from serving.inference.access import read_token
from serving.inference.traces import Traces
from serving.listening import (
    LOOPBACK,
    Say,
    listen,
    listen_unix,
    prepare,
    run,
    stoppable,
    to_stderr,
)
from serving.sandbox.limits import Limits

if TYPE_CHECKING:
    from serving.hospital.deployment import Deployment, Mode, Stage
    from serving.hospital.service import Service
    from serving.pilot.prediction import OnPrediction

PORT = 8500
WAITING = 16
EVERY = 900.0
LARGEST_IMAGES = 512 << 20
SERVING_LIMITS = Limits(cpu_seconds=365 * 86_400)
"""As at the facility, but for the CPU time of a process that may run for months."""


Remember = Callable[[bytes], None]


def now() -> dt.datetime:
    """The present, in UTC."""
    return dt.datetime.now(dt.UTC)


@dataclass(frozen=True)
class Settings:
    """What the operator set.

    port: 0 picks a free one. socket: a Unix socket in place of host and port. token: a file; None
    asks for none. limits: of the sandboxed process. waiting: requests held at once. mode:
    `assistive` only where the certificate allows it. every: seconds between two questions for the
    standing. largest_images: bytes of one request with images. collector: an OTLP endpoint.
    """

    host: str = "127.0.0.1"
    port: int = PORT
    socket: Path | None = None
    token: Path | None = None
    limits: Limits = SERVING_LIMITS
    waiting: int = WAITING
    mode: "Mode" = "shadow"
    every: float = EVERY
    largest_images: int = LARGEST_IMAGES
    collector: str | None = None

    def __post_init__(self) -> None:
        if self.every <= 0 or self.waiting < 1:
            raise Invalid("`every` and `waiting` must be above zero")


@dataclass(frozen=True)
class Deployer:
    """Verifies a bundle and brings its model up; see `serving.hospital.service.Deploy`."""

    root: x509.Certificate
    settings: Settings
    standing_of: StandingOf | None
    clock: Callable[[], dt.datetime]
    policy_of: Callable[[], Policy] = Policy
    remember: Remember | None = None

    def __call__(self, directory: Path, say: Say) -> "Deployment":
        from serving.bundle.verify import verify
        from serving.hospital.deployment import Deployment
        from serving.hospital.watching import Watch
        from serving.worker import Worker

        # All steps but the replay, which the serving process itself makes; keeps the bytes.
        verified = verify(
            directory, self.root, self.clock(), self.policy_of(), replay=False, keep=True
        )
        for step in verified.steps:
            if step.outcome != "skipped":
                say(f"{'ok  ' if step.ok else 'FAIL'}  {step.name}: {step.sentence}")
        verified.raise_if_failed()
        assert verified.statement is not None
        watch = Watch(verified.statement, self.standing_of, self.clock)
        watch.check()
        watch.require()
        settings = self.settings
        worker = Worker(verified, limits=settings.limits, waiting=settings.waiting)
        try:
            deployment = Deployment(verified, worker, watch, settings.mode, self.clock)
            replayed = worker.start()
            if self.remember is not None and verified.checkpoint is not None:
                self.remember(verified.checkpoint)
        except BaseException:
            worker.close()
            raise
        say(
            f"ok    golden vectors: {replayed.cases} made-up cases in {replayed.calls} calls, at "
            f"most {replayed.largest_difference:.2g} from the facility's scores"
        )
        return deployment


def serve(
    directory: Path,
    root: x509.Certificate,
    settings: Settings = Settings(),
    *,
    policy_of: Callable[[], Policy] = Policy,
    standing_of: StandingOf | None = None,
    remember: Remember | None = None,
    on_prediction: "OnPrediction | None" = None,
    clock: Callable[[], dt.datetime] = now,
    say: Say = to_stderr,
) -> None:
    """Verify what `directory` (a bundle or a service folder) holds, and serve it until stopped.

    policy_of: what this hospital asks of a bundle, asked anew for each. standing_of: whether the
    certificate still stands; None asks nobody. remember: is given the log's newest checkpoint of
    each bundle that is taken into service. on_prediction: is told of each prediction
    (`serving.hospital.telling`). Raises what verification found, Unavailable when
    the port is taken (port_in_use) or a part is not installed (not_installed).
    """
    prepare()
    from serving.hospital.deployment import Stage
    from serving.hospital.service import Service, is_service

    with contextlib.suppress(KeyboardInterrupt), stoppable(), ExitStack() as stack:
        listener = stack.enter_context(contextlib.closing(_listener(settings, stack)))
        deploy = Deployer(root, settings, standing_of, clock, policy_of, remember)
        service = Service(directory) if is_service(directory) else None
        if service is None:
            first = deploy(directory, say)
        else:
            stack.enter_context(service.held())
            first = service.current(deploy, say)
        stage = stack.enter_context(contextlib.closing(Stage(first)))
        _serve(stage, service, deploy, listener, on_prediction, stack, say)


def _serve(
    stage: "Stage",
    service: "Service | None",
    deploy: Deployer,
    listener: socket.socket,
    on_prediction: "OnPrediction | None",
    stack: ExitStack,
    say: Say,
) -> None:
    from serving.front import bento
    from serving.hospital.control import Control, obeying
    from serving.hospital.parts import Parts
    from serving.hospital.telling import Telling
    from serving.hospital.watching import Schedule
    from serving.reading.readers import Readers
    from serving.routes import routes

    settings = deploy.settings
    parts = Parts(
        stage,
        stack.enter_context(contextlib.closing(Readers(settings.largest_images))),
        stack.enter_context(contextlib.closing(Traces(settings.collector, "touchstone-hospital"))),
        None if settings.token is None else read_token(settings.token),
        None
        if on_prediction is None
        else stack.enter_context(contextlib.closing(Telling(on_prediction))),
    )
    if deploy.standing_of is not None:
        schedule = stack.enter_context(contextlib.closing(Schedule(settings.every, stage.check)))
        schedule.start()
    if service is not None:
        obey = obeying(
            lambda bundle, tell: service.update(bundle, deploy, stage, tell),
            lambda tell: service.roll_back(deploy, stage, tell),
        )
        stack.enter_context(contextlib.closing(Control(service, obey)))
    run(bento(routes(parts)), listener, lambda: _announce(stage, listener, settings, say))


def _listener(settings: Settings, stack: ExitStack) -> socket.socket:
    if settings.socket is None:
        return listen(settings.host, settings.port)
    listener = listen_unix(settings.socket)
    stack.callback(settings.socket.unlink, missing_ok=True)
    return listener


def _announce(stage: "Stage", listener: socket.socket, settings: Settings, say: Say) -> None:
    active = stage.active
    if settings.socket is not None:
        address = f"unix:{settings.socket}"
    else:
        shown, port = listener.getsockname()[:2]
        address = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"
    say(
        f"serving {active.title} on {address}: investigational, {active.mode} mode, until "
        f"{active.predicate.not_after:%Y-%m-%d}. Stop with Ctrl-C"
    )
    if active.verified.demo_root:
        say("DEMO ROOT: NOT FOR PATIENTS")
    if settings.socket is None and not settings.host.startswith(LOOPBACK):
        say(f"listening on {settings.host} without accounts: keep it behind your own gateway")
