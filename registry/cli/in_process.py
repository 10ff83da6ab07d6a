"""The API in this very process, for whoever has the database at hand and no server.

    >>> httpx.Client(transport=InProcess(settings), base_url="http://in-process/api/v1")

It is the whole API with its checks of token, policy and rows, without MLflow behind it.
"""

import asyncio
import importlib

import httpx

from registry.settings import Settings


class InProcess(httpx.BaseTransport):
    """Hands each request to the application and waits for its answer."""

    def __init__(self, settings: Settings) -> None:
        # By name: the doors do not import each other.
        main = importlib.import_module("registry.api.main")
        self._app, self._close = main.local_application(settings)
        self._inner = httpx.ASGITransport(self._app, raise_app_exceptions=False)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """One request, one answer."""
        return asyncio.run(self._answer(request))

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        asked = httpx.Request(
            request.method, request.url, headers=request.headers, content=request.read()
        )
        answer = await self._inner.handle_async_request(asked)
        body = await answer.aread()
        return httpx.Response(answer.status_code, headers=answer.headers, content=body)

    def close(self) -> None:
        """Give every connection back."""
        self._close()
