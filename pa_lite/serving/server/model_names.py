"""The names of models in requests: the served one, and for a pair `NAME@LAM`. A name is never a path."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pa_lite.errors import InputError
from pa_lite.sanitize import one_line
from pa_lite.serving.host import Host
from pa_lite.serving.server.errors import ApiError

_LAM = re.compile(r"-?\d{1,2}(?:\.\d{1,20})?", re.ASCII)


def model_name(host: Host, lam: float | None) -> str:
    """Return the name of the model at a lam."""
    return host.name if lam is None else f"{host.name}@{lam:g}"


def listed_names(host: Host) -> Iterator[str]:
    """Yield the served model's name, and for a pair its names at 0, 0.1, ..., 1. Others with two decimals work too."""
    yield host.name
    if host.is_pair:
        for tenth in range(11):
            yield model_name(host, tenth / 10)


def lam_of(host: Host, name: str | None, lam: float | None = None) -> float | None:
    """Return the lam that a request names, rounded to two decimals, else the host's; None for a model from a file.

    Raises the HTTP error 404 for the name of another model, 400 for a bad lam and for two that differ.
    """
    named = None if name is None else _named_lam(host, name)
    if lam is not None:
        lam = _rounded(host, lam)
        if named is not None and named != lam:
            raise ApiError(400, f"model {name} and lam {lam:g} differ: leave one of them out.", param="lam")
    chosen = named if lam is None else lam
    return host.lam if chosen is None else chosen


def _named_lam(host: Host, name: str) -> float | None:
    """Return the lam in a name, None in one without. Raises the HTTP error 404 for anything else."""
    if name == host.name:
        return None
    own, at, lam = name.rpartition("@")
    if not at or own != host.name or not host.is_pair or _LAM.fullmatch(lam) is None:
        raise _unknown(host, name)
    try:
        return host.rounded(lam)
    except InputError:
        raise _unknown(host, name) from None


def _rounded(host: Host, lam: float) -> float:
    try:
        return host.rounded(lam)
    except InputError as e:
        raise ApiError(400, str(e), param="lam") from e


def _unknown(host: Host, name: str) -> ApiError:
    known = f"{host.name} or {host.name}@LAM, such as {host.name}@0.35" if host.is_pair else host.name
    return ApiError(
        404, f"the model {one_line(name[:100])!r} does not exist: use {known}.", param="model", code="model_not_found"
    )
