"""Routes whose bodies are parsed strictly: valid JSON only, without duplicate keys, deep nesting or lone surrogates."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from pa_lite.serving.server.errors import ApiError, invalid
from pa_lite.untrusted.strict_json import parse_json


class _StrictRequest(Request):
    async def json(self) -> Any:
        """Return the body's value. Raises the HTTP error 400 for anything but strict JSON."""
        try:
            return parse_json(await self.body())
        except ValueError as e:
            raise _InvalidJsonError(str(e)) from e


class _InvalidJsonError(ApiError):
    def __init__(self, reason: str) -> None:
        super().__init__(400, f"the body is not valid JSON: {reason}.", code="invalid_json")


class StrictRoute(APIRoute):
    """A route with a strict body, and whose errors can name the fields that its body has."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler for a request that parses strictly."""
        handle = super().get_route_handler()
        body = None if self.body_field is None else self.body_field.field_info.annotation
        known = list(getattr(body, "model_fields", ()))

        async def strict(request: Request) -> Response:
            try:
                return await handle(_StrictRequest(request.scope, request.receive))
            except RequestValidationError as e:
                raise invalid(e.errors(), known) from None
            except Exception as e:
                # FastAPI replaces errors of parsing by its own, which say nothing
                if isinstance(e.__cause__, _InvalidJsonError):
                    raise e.__cause__ from None
                raise

        return strict
