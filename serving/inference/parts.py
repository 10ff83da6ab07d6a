"""The parts of one inference server, and what it says about itself."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serving.inference.metrics import Metrics
from serving.inference.places import Places
from serving.inference.regions import PREFIX, Regions
from serving.inference.repository import Repository
from serving.inference.store import Store
from serving.inference.traces import Traces
from serving.sandbox.limits import Limits
from serving.sandbox.process import Sandbox
from serving.sandbox.providers import CPU, Provider

MODELS = 4
PLACES = 8
LARGEST_BODY = 256 << 20
LIMITS = Limits(cpu_seconds=365 * 86_400)
"""Of one model: as in the worker's own process, but for the CPU time of a long life."""


@dataclass(frozen=True)
class Settings:
    """What the operator set.

    models: the directory of `Store`; most_models: processes at once; places: requests at once;
    largest_body: bytes of one request; prefix: of shared memory regions, None for none;
    collector: an OTLP endpoint; provider: what computes, a CUDA device for one model at a time.
    """

    models: Path
    token: str
    most_models: int = MODELS
    places: int = PLACES
    largest_body: int = LARGEST_BODY
    prefix: str | None = PREFIX
    collector: str | None = None
    limits: Limits = LIMITS
    allow_unsandboxed: bool = False
    provider: Provider = CPU


class Parts:
    """Everything that handlers share. Made where an event loop runs; `close` ends it."""

    def __init__(self, settings: Settings, probe: dict[str, Any]) -> None:
        self.settings, self.probe = settings, probe
        self.places = Places(settings.places)
        self.regions = Regions(settings.prefix)
        self.traces = Traces(settings.collector)
        self.repository = Repository(
            Store(settings.models), starter(settings), most_models=settings.most_models
        )
        self.metrics = Metrics(self.repository, self.places)

    @contextlib.asynccontextmanager
    async def living(self, _: object) -> AsyncIterator[None]:
        """The application's life: at its end every process is buried."""
        try:
            yield
        finally:
            await self.repository.close()
            self.regions.unregister()
            await asyncio.to_thread(self.traces.close)


def starter(settings: Settings) -> Callable[[], Sandbox]:
    """What starts one sandboxed process under the settings."""
    return lambda: Sandbox.start(
        settings.limits,
        allow_unsandboxed=settings.allow_unsandboxed,
        provider=settings.provider,
    )


def probed(settings: Settings) -> dict[str, Any]:
    """What a sandboxed process can lock down here, with which versions: one is started and ended.

    Raises Refused (sandbox_unavailable), Unavailable (sandbox_start).
    """
    with starter(settings)() as sandbox:
        return {
            "level": dict(sandbox.level),
            "versions": dict(sandbox.versions),
            "execution": dict(sandbox.execution),
            "limits": asdict(settings.limits),
        }
