"""The front that every server of this house has: our routes, inside BentoML, and nothing else.

Rules
-----
1. Every path that is not listed is refused, whatever a framework mounts beside it.
2. BentoML decodes bodies only for `@bentoml.api` methods, pickle among them; there is none here.
3. A fault becomes a problem before a framework can log what it says.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

from serving.problems import problem, problem_of

Handler = Callable[[Request], Awaitable[Response]]


def application(
    handlers: Mapping[tuple[str, str], Handler], living: Lifespan[Starlette] | None = None
) -> Starlette:
    """The routes {(method, path): handler} and no other, for as long as `living` lasts."""
    return Starlette(
        routes=[
            Route(path, guarded(handler), methods=[method])
            for (method, path), handler in handlers.items()
        ],
        exception_handlers={HTTPException: _http_problem},
        lifespan=living,
    )


def bento(app: Starlette) -> ASGIApp:
    """The routes as a BentoML service, behind a front that lets nothing else through."""
    import bentoml

    @bentoml.asgi_app(app, path="/")
    @bentoml.service(
        name="touchstone",
        traffic={"timeout": 3600},  # ours are shorter, and say what happened
        metrics={"enabled": False},
        logging={"access": {"enabled": False}},
        tracing={"excluded_urls": ".*"},  # it would make a span for each block of a body
    )
    class Touchstone:
        """The routes are the application's."""

    service: Any = Touchstone
    # As main: mounted otherwise, BentoML would decode pickle.
    return Front(service.to_asgi(is_main=True), app.routes)


class Front:
    """The outermost layer: only the paths of `routes` reach the framework at all."""

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self._app, self._routes = app, tuple(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        if all(route.matches(scope)[0] is Match.NONE for route in self._routes):
            await problem(404, "not_found", "there is no such path")(scope, receive, send)
            return
        await self._app(scope, receive, send)


def guarded(handler: Handler) -> Handler:
    """The handler, whose faults become problems before a framework can log what they say."""

    async def guarded(request: Request) -> Response:
        try:
            return await handler(request)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        except Exception as error:  # noqa: BLE001
            return problem_of(error)

    return guarded


async def _http_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method"}.get(error.status_code, "http")
    return problem(error.status_code, code, str(error.detail))


def answer(value: dict[str, Any]) -> JSONResponse:
    """A JSON answer that no cache keeps."""
    return JSONResponse(value, headers={"Cache-Control": "no-store"})
