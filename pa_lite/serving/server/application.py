"""The web application: routes, and the middleware around them."""

from __future__ import annotations

import importlib.metadata

from fastapi import FastAPI
from starlette.types import ASGIApp

from pa_lite.serving.page import routes
from pa_lite.serving.server import chat_completions, completions, information
from pa_lite.serving.server.bodies import Bodies
from pa_lite.serving.server.errors import add_handlers
from pa_lite.serving.server.recording import Recorder
from pa_lite.serving.server.security import Guard
from pa_lite.serving.server.service import Service


def make_app(service: Service) -> ASGIApp:
    """Return the application of a service.

    A request passes, in this order: the count (`recording`), the checks of who asks (`security`), the bounds of its
    body (`bodies`), and its route.
    """
    version = importlib.metadata.version("pa-lite")
    app = FastAPI(title="pa-lite", version=version, docs_url=None, redoc_url=None)
    app.state.service = service
    add_handlers(app)
    for module in (chat_completions, completions, information, routes):
        app.include_router(module.router)
    guarded = Guard(Bodies(app), service.options)
    return Recorder(guarded, service.metrics)
