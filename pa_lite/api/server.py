"""Serving a model over HTTP, as OpenAI's API. Requires the extra `serve`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pa_lite.api.options import EngineOptions, ModelLike, Names, fill, model_type, resolve_model
from pa_lite.errors import InputError
from pa_lite.serving.server.options import ServeOptions
from pa_lite.serving.start import starting_reference

if TYPE_CHECKING:  # these modules import the extra's packages
    from pa_lite.serving.server.run import RunningServer as RunningServer

__all__ = ["ServeOptions", "running_server", "serve"]


@contextlib.contextmanager
def running_server(
    model: ModelLike,
    options: ServeOptions | None = None,
    engine: EngineOptions | None = None,
    type: str | None = None,
    *,
    lam: float | str | None = None,
    study: str | Path | None = None,
    extrapolate: bool = False,
) -> Iterator[RunningServer]:
    """Serve a model in other threads during a `with` block, which gets the server: `.url`, `.wait()`.

    Requires the extra `serve`. The parameters are those of the function `serve`. With `ServeOptions(port=0)` any free port is used.
    Raises PaLiteError.
    """
    try:
        from pa_lite.serving.server.run import running_server as run
    except ImportError as e:
        raise _not_installed(e) from e
    reference = starting_reference(model, lam, study, extrapolate)
    with run(reference, options, engine, model_type(type), extrapolate, study) as server:
        yield server


def _not_installed(error: ImportError) -> InputError:
    name = (error.name or "").split(".")[0]
    is_missing = isinstance(error, ModuleNotFoundError) and name != "pa_lite"
    what = f"{name} is not installed" if is_missing else f"its packages cannot be loaded ({error})"
    return InputError(f"serving: {what}. Install what it requires with: pip install 'pa-lite[serve]'.")


def serve(
    model: ModelLike,
    options: ServeOptions | None = None,
    type: str | None = None,
    *,
    lam: float | str | None = None,
    study: str | Path | None = None,
    host: str | None = None,
    port: int | None = None,
    api_key: str | None = None,
    allow_hosts: Names | None = None,
    allow_origins: Names | None = None,
    parallel: int | None = None,
    queue: int | None = None,
    max_memory: int | str | None = None,
    models: int | None = None,
    max_wait: float | None = None,
    threads: int | None = None,
    gpu_layers: int | str | None = None,
    flash_attention: bool | None = None,
    cache_type: str | None = None,
    n_batch: int | None = None,
    n_ctx: int | None = None,
    probe: bool | None = None,
    engine: EngineOptions | None = None,
    extrapolate: bool = False,
    adapter: str | Path | None = None,
) -> None:
    """Serve `FILE.gguf`, `PAIR@LAM` or a pair as OpenAI's API, until Ctrl-C or SIGTERM. Requires the extra `serve`.

    Requests to a pair may name any lam (`model="demo@0.35"`); without one, `lam` answers, else the best lam of the
    study in the run folder `study`, else 0.6. A pair is merged in memory as `type` (F16 by default). Keywords are the
    fields of `ServeOptions` and `EngineOptions`; `n_ctx` is the length of one prompt with its answer, by default 8192
    tokens, or what the model was trained with if that is less. `extrapolate` allows lams outside [0, 1].
    `adapter` is as for `load`. Raises PaLiteError.
    """
    words = locals()
    model = model if adapter is None else resolve_model(model, lam, extrapolate, adapter)
    chosen, how = fill(ServeOptions, words, options), fill(EngineOptions, words, engine)
    with running_server(model, chosen, how, type, lam=lam, study=study, extrapolate=extrapolate) as server:
        server.wait()
