"""`init`, `up`, and what a cluster runs: `server`, `worker`, `migrate`."""

import asyncio
import ctypes
import logging
import os
import signal
import sys

from registry.cli.output import console, show
from registry.settings import SILENCE, read_settings
from registry.trust.errors import Unavailable

_PR_SET_PDEATHSIG = 1


def init(as_json: bool) -> None:
    """Set everything up and stop again."""
    from registry.setup import embedded_databases, set_up

    settings = read_settings()
    if settings.databases is not None:
        made = set_up(settings, settings.databases)
    else:
        with embedded_databases(settings) as (_, databases):
            made = set_up(settings, databases)
    root = settings.keys / "root.pem"
    show(
        {
            "home": str(settings.home),
            "root": str(root),
            "admin_token_file": str(settings.admin_token),
            "migrations": made.migrations,
            "demo_root": made.demo_root,
        },
        as_json,
        f"data directory  {settings.home}\nroot            {root}"
        f"{' (a demo root: not for patients)' if made.demo_root else ''}\n"
        f"administrator   {settings.admin_token}\nNext: touchstone up",
    )


def up(host: str, port: int, allow_unsandboxed: bool, as_json: bool) -> None:
    """Everything in one terminal."""
    from registry.up import up as run

    settings = read_settings()
    run(
        settings,
        host=host,
        port=port,
        allow_unsandboxed=allow_unsandboxed,
        announce=lambda line: (
            None if as_json else console.print(line, markup=False, soft_wrap=True)
        ),
    )
    show({"stopped": True}, as_json, "stopped")


def server(host: str, port: int) -> None:
    """The registry, until SIGINT or SIGTERM."""
    import uvicorn

    _end_with_parent()
    os.environ.update(SILENCE)
    _log()
    uvicorn.run(  # by name: the doors do not import each other
        "registry.api.main:application",
        factory=True,
        http="registry.api.wire:Wire",
        ws="none",
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # who asks from where is decided in identity/rate.py
        timeout_graceful_shutdown=5,
    )


def worker(queue: str | None, allow_unsandboxed: bool) -> None:
    """One worker, until SIGINT or SIGTERM."""
    from registry.facility import open_facility
    from registry.pipeline.queue import work
    from registry.pipeline.turns import QUEUES
    from registry.pipeline.where import server_of

    _end_with_parent()
    os.environ.update(SILENCE)
    _log()
    settings = read_settings()
    server_of(settings)  # a slip is told now; a server that is away may come
    facility = open_facility(settings)
    try:
        asyncio.run(
            work(facility, [queue] if queue else QUEUES, allow_unsandboxed=allow_unsandboxed)
        )
    finally:
        facility.close()


def _end_with_parent() -> None:
    """Under `up`: be told to stop when `up` dies, even if it was killed and could not tell."""
    parent = os.environ.pop("TOUCHSTONE_UP_PID", None)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit("the `touchstone up` that started this is gone")


def migrate(as_json: bool) -> None:
    """Migrate the database named in the environment."""
    from registry.setup import migrate_all

    databases = read_settings().databases
    if databases is None:
        raise Unavailable("name the database: TOUCHSTONE_OWNER_DATABASE_URL and the others")
    ran = migrate_all(databases)
    show({"ran": ran}, as_json, f"{len(ran)} migrations ran")


def _log() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for noisy in ("httpx", "alembic", "procrastinate", "mlflow"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
