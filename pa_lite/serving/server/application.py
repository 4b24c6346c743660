"""The web application: routes, and the middleware around them."""

from __future__ import annotations

import importlib.metadata

from fastapi import FastAPI, Request, Response
from starlette.types import ASGIApp

from pa_lite.serving.server import chat_completions, completions, information
from pa_lite.serving.server.bodies import Bodies
from pa_lite.serving.server.errors import add_handlers, json_response
from pa_lite.serving.server.recording import Recorder
from pa_lite.serving.server.security import Guard
from pa_lite.serving.server.service import Service


def make_app(service: Service, page: ASGIApp | None = None) -> ASGIApp:
    """Return the application of a service; `page` is what it shows at `/`, by default a list of the routes.

    A request passes, in this order: the count (`recording`), the checks of who asks (`security`), the bounds of its
    body (`bodies`), and its route.
    """
    version = importlib.metadata.version("pa-lite")
    app = FastAPI(title="pa-lite", version=version, docs_url=None, redoc_url=None)
    app.state.service = service
    add_handlers(app)
    for module in (chat_completions, completions, information):
        app.include_router(module.router)
    if page is None:
        app.add_api_route("/", _index, include_in_schema=False)
    else:
        app.mount("/", page)
    guarded = Guard(Bodies(app), service.options)
    return Recorder(guarded, service.metrics)


async def _index(request: Request) -> Response:
    """List what can be asked for."""
    routes = sorted(request.app.openapi()["paths"])
    return json_response({"server": "pa-lite", "routes": routes})
