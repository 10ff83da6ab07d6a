"""The models that are loaded: at most so many, each named by its digest.

Rules
-----
1. Loading a model that is loaded gives it a fresh process (`Resident.renew`).
2. Where all places are taken, the model that nobody has asked for longest goes; where all have
   callers, the next one is told to come again.
3. What failed to load is not kept.
"""

import asyncio
from collections.abc import Callable

from registry.trust.errors import NotFound, Unavailable
from serving.inference.resident import Resident, Session
from serving.inference.store import Store
from serving.sandbox.process import Sandbox


class Repository:
    """The loaded models; used from one event loop."""

    def __init__(
        self, store: Store, start_sandbox: Callable[[], Sandbox], *, most_models: int
    ) -> None:
        self.store = store
        self.most_models = most_models
        self._start_sandbox = start_sandbox
        self._models: dict[str, Resident] = {}
        self._loading = asyncio.Lock()

    @property
    def loaded(self) -> dict[str, Resident]:
        """The loaded models by digest."""
        return {digest: m for digest, m in self._models.items() if m.session is not None}

    def model(self, digest: str) -> Resident:
        """A model that is loaded. Raises NotFound (model_not_loaded)."""
        found = self._models.get(digest)
        if found is None or found.session is None:
            raise NotFound("no model of this digest is loaded", code="model_not_loaded")
        return found

    async def load(self, digest: str) -> Session:
        """Load a model, or give a loaded one a fresh process.

        Raises NotFound (model_unknown), Tampered, ModelFailure, Unavailable (busy).
        """
        async with self._loading:
            model = self._models.get(digest)
            if model is None:
                files = await asyncio.to_thread(self.store.read, digest)
                await self._make_room()
                model = self._models[digest] = Resident(digest, files, self._start_sandbox)
        try:
            return await model.renew()
        except BaseException:
            if model.session is None and self._models.get(digest) is model:
                await self.unload(digest)
            raise

    async def unload(self, digest: str) -> None:
        """End a model. One that is not loaded is no error."""
        model = self._models.pop(digest, None)
        if model is not None:
            await model.close()

    async def close(self) -> None:
        """End all of them."""
        for digest in list(self._models):
            await self.unload(digest)

    async def _make_room(self) -> None:
        while len(self._models) >= self.most_models:
            idle = [model for model in self._models.values() if model.idle]
            if not idle:
                raise Unavailable(
                    f"{self.most_models} models are loaded and have callers", code="busy"
                )
            await self.unload(min(idle, key=lambda model: model.used).digest)
