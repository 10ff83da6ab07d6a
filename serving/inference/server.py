"""The facility's inference server: models by digest, behind a token, over TCP or a Unix socket.

    openssl rand -hex 32 > token
    python -m serving.inference.server --models models --token token --port 8600

Rules
-----
1. BentoML in front, one sandboxed process a model behind it; see docs/decisions/0030.
2. It does not start where a model can't be locked down, nor where what was to compute is not there
   or keeps what another process left in its memory.
3. It runs in the foreground. Ctrl-C, SIGTERM and a closed terminal stop it and bury every process.
4. It listens on this machine alone unless told otherwise. It speaks plain HTTP: between hosts it
   belongs on a network of their own, or behind a proxy that encrypts.
"""

import argparse
import contextlib
import dataclasses
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from registry.trust.errors import Invalid, TouchstoneError
from serving.inference.access import Guard, read_token
from serving.inference.parts import (
    LARGEST_BODY,
    LIMITS,
    MODELS,
    PLACES,
    Parts,
    Settings,
    probed,
)
from serving.inference.regions import PREFIX
from serving.inference.traces import ENDPOINT
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
from serving.sandbox.providers import DEVICE_MEMORY, Provider
from serving.sandbox.residue import check_residue

if TYPE_CHECKING:
    from starlette.applications import Starlette

PORT = 8600


def application(parts: Parts) -> "Starlette":
    """All routes of the server."""
    from serving import front
    from serving.inference.administration import Administration
    from serving.inference.answers import Routes, Traced
    from serving.inference.inferring import Inferring

    server, models = Administration(parts), Inferring(parts)
    one, repository = "/v2/models/{digest}", "/v2/repository"
    version, memory = one + "/versions/{version}", "/v2/systemsharedmemory"
    table: list[tuple[str, str, Traced]] = []
    for prefix in (one, version):  # the hot path first
        table += [
            ("POST", prefix + "/infer", models.infer),
            ("GET", prefix, models.metadata),
            ("GET", prefix + "/ready", models.ready),
            ("GET", prefix + "/config", models.configuration),
        ]
    table += [
        ("GET", "/v2", server.server),
        ("GET", "/metrics", server.metrics),
        ("POST", repository + "/index", server.index),
        ("POST", repository + "/models/{digest}/load", server.load),
        ("POST", repository + "/models/{digest}/unload", server.unload),
        ("PUT", repository + "/models/{digest}", server.upload),
        ("GET", memory + "/status", server.regions),
        ("GET", memory + "/region/{name}/status", server.regions),
        ("POST", memory + "/region/{name}/register", server.register),
        ("POST", memory + "/region/{name}/unregister", server.unregister),
        ("POST", memory + "/unregister", server.unregister),
    ]
    routes = Routes(Guard(parts.settings.token), parts.metrics, parts.traces)
    handlers = {(method, path): routes.handler(path, work) for method, path, work in table}
    for path, work in (("/v2/health/live", server.live), ("/v2/health/ready", server.ready)):
        handlers["GET", path] = routes.handler(path, work, anyone=True)
    return front.application(handlers, parts.living)


def serve(settings: Settings, listener: socket.socket, shown: str, say: Say = to_stderr) -> None:
    """Serve on `listener`, which people know as `shown`, until stopped."""
    from serving.front import bento

    with contextlib.suppress(KeyboardInterrupt), stoppable(), contextlib.closing(listener):
        if settings.provider.on_device:
            check_residue(settings.provider)
        probe = probed(settings)
        parts = Parts(settings, probe)
        say(f"sandbox: {', '.join(f'{k} {v}' for k, v in probe['level'].items())}")
        say(f"computes on {probe['execution']['device']}, {probe['execution']['class']}")
        run(bento(application(parts)), listener, lambda: say(f"inference on {shown}"))


def main(arguments: list[str] | None = None) -> int:
    """`python -m serving.inference.server`; returns the exit status."""
    given = _arguments().parse_args(arguments)
    try:
        prepare()
        most_models = _most_models(given)
        if min(most_models, given.places, given.largest_mebibytes) < 1:
            raise Invalid("--most-models, --places and --largest-mebibytes start at 1")
        settings = Settings(
            models=given.models,
            token=read_token(given.token),
            most_models=most_models,
            places=given.places,
            largest_body=given.largest_mebibytes << 20,
            prefix=given.shared_memory_prefix or None,
            collector=os.environ.get(ENDPOINT),
            limits=dataclasses.replace(
                LIMITS,
                wall_seconds=given.seconds,
                memory_bytes=given.memory_mebibytes << 20,
            ),
            allow_unsandboxed=given.allow_unsandboxed,
            provider=_provider(given),
        )
        if given.socket is not None:
            listener, shown = listen_unix(given.socket), f"unix:{given.socket}"
        else:
            listener = listen(given.host, given.port)
            host, port = listener.getsockname()[:2]
            shown = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            if not given.host.startswith(LOOPBACK):
                to_stderr(
                    f"listening on {given.host} in plain HTTP: keep it on a network of its own"
                )
        try:
            serve(settings, listener, shown)
        finally:
            if given.socket is not None:
                given.socket.unlink(missing_ok=True)
    except TouchstoneError as error:
        to_stderr(error.message)
        return 1
    to_stderr("stopped")
    return 0


def _most_models(given: argparse.Namespace) -> int:
    if given.provider == "cpu":
        return MODELS if given.most_models is None else int(given.most_models)
    if given.most_models not in (None, 1):
        raise Invalid("a model has a CUDA device alone: --most-models is 1 with --provider cuda")
    return 1


def _provider(given: argparse.Namespace) -> Provider:
    mebibytes = given.device_memory_mebibytes
    if given.provider == "cpu":
        return Provider("cpu", given.device, (mebibytes or 0) << 20)
    memory = DEVICE_MEMORY if mebibytes is None else mebibytes << 20
    return Provider("cuda", given.device or "0", memory)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving.inference.server")
    add = parser.add_argument
    add("--models", type=Path, required=True, help="directory of models, each named by its digest")
    add("--token", type=Path, required=True, help="file with the token that callers must send")
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=PORT, help="0 picks a free one")
    add("--socket", type=Path, help="a Unix socket in place of host and port")
    add("--most-models", type=int, help=f"loaded at once: {MODELS}; with cuda 1 and no more")
    add("--places", type=int, default=PLACES, help="requests held at once; the next gets a 503")
    add("--largest-mebibytes", type=int, default=LARGEST_BODY >> 20, help="of one request's body")
    add("--seconds", type=float, default=30.0, help="time limit of one call of a model")
    add("--memory-mebibytes", type=int, default=4096, help="address space of one model")
    add("--provider", choices=("cpu", "cuda"), default="cpu", help="what computes; no fall-back")
    add(
        "--device", default="", help="with cuda: a number, GPU-<uuid> or MIG-<uuid>; 0 if not given"
    )
    add("--device-memory-mebibytes", type=int, help="with cuda: of one session on the device")
    add("--shared-memory-prefix", default=PREFIX, help="of regions in /dev/shm; '' for none")
    add("--allow-unsandboxed", action="store_true", help="run without seccomp; never certified")
    return parser


if __name__ == "__main__":
    sys.exit(main())
