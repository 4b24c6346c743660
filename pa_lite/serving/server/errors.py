"""Errors in OpenAI's form: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from pa_lite.errors import PaLiteError, nearest
from pa_lite.sanitize import short_line

_log = logging.getLogger(__name__)
_ENCODE = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
INTERNAL = "internal error; the server's log says more."
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_PLAIN = {
    "missing": "it is required",
    "int_type": "it must be an integer",
    "float_type": "it must be a number",
    "bool_type": "it must be true or false",
    "string_type": "it must be a string",
    "list_type": "it must be a list",
    "dict_type": "it must be an object",
    "model_type": "it must be an object",
    "model_attributes_type": "the body must be a JSON object, sent with Content-Type: application/json",
    "finite_number": "it must be a finite number",
}
# OpenAI's parameters that would change an answer
_UNSUPPORTED = (
    "audio", "functions", "function_call", "prediction", "reasoning_effort", "verbosity", "web_search_options",
)  # fmt: skip


class ApiError(Exception):
    """A request that cannot be answered: HTTP status, a message of one line, and OpenAI's fields."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.message = short_line(message)
        super().__init__(self.message)
        self.status, self.param, self.code, self.headers = status, param, code, dict(headers or {})

    @property
    def document(self) -> dict[str, Any]:
        """The body of the response."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def response(self) -> Response:
        """The whole response."""
        return json_response(self.document, self.status, self.headers)


class ClientGone(Exception):  # noqa: N818 - not an error
    """The client closed its connection before the answer was complete."""


def json_response(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response with a JSON document."""
    return Response(to_bytes(document), status, dict(headers or {}), "application/json")


def to_bytes(document: Any) -> bytes:
    """Return a JSON document as UTF-8 bytes."""
    return _ENCODE(document).encode("utf-8")


def bad_request(error: PaLiteError, param: str | None = None, hidden: str = "", shown: str = "") -> ApiError:
    """Return the error for a request that cannot be computed because of its values.

    In the message, `hidden`, such as the path of a file, is replaced by `shown`.
    """
    message = str(error)
    return ApiError(400, message.replace(hidden, shown) if hidden else message, param=param)


def internal(error: BaseException | None) -> ApiError:
    """Return the error for a failure of the server; what failed is logged, not sent."""
    if isinstance(error, PaLiteError):
        _log.error("a request failed: %s", error)
    elif error is not None:
        _log.error("internal error (a bug in pa-lite)", exc_info=error)
    return ApiError(500, INTERNAL)


def invalid(errors: Sequence[Mapping[str, Any]], known: Sequence[str] = ()) -> ApiError:
    """Return the error for a body that does not match its schema; `errors` are pydantic's, the first one counts.

    `known` are the body's fields, of which the nearest ones are suggested for an unknown one.
    """
    first = errors[0]
    place = [part for part in first["loc"] if part != "body"]
    param = _parameter(place)
    kind, cause = str(first["type"]), (first.get("ctx") or {}).get("error")
    if param in _UNSUPPORTED:
        return ApiError(400, f"{param} is not supported here. Leave it out.", param=param)
    if kind == "extra_forbidden":
        hint = nearest(param, known) if len(place) == 1 else ""
        return ApiError(400, f"unknown field {param!r}.{hint}", param=param, code="unknown_parameter")
    if kind == "value_error" and cause is not None:
        return ApiError(400, str(cause), param=param or None)
    if kind == "missing" and not param:
        return ApiError(400, "the body is missing: send a JSON object.")
    reason = _PLAIN.get(kind) or str(first["msg"]).replace("Input should", "it should")
    return ApiError(400, f"{param}: {reason}." if param else f"{reason}.", param=param or None)


def _parameter(place: Sequence[str | int]) -> str:
    """Return the name of a value, such as `messages[0].content`."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text[:200]


async def _on_api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path[:200]}"
    if error.status_code == 404:
        return ApiError(404, f"unknown URL: {what}", code="unknown_url").response
    if error.status_code == 405:
        return ApiError(405, f"not allowed: {what}", code="method_not_supported", headers=error.headers).response
    return ApiError(error.status_code, str(error.detail), headers=error.headers).response


async def _on_gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)  # as nginx; no client reads it


async def _on_bug(_request: Request, _error: Exception) -> Response:
    return ApiError(500, INTERNAL).response  # the middleware that catches the error logs it


def add_handlers(app: FastAPI) -> None:
    """Give every error of an application OpenAI's form."""
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(ClientGone, _on_gone)
    app.add_exception_handler(Exception, _on_bug)
