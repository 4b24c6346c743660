"""The command `serve`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

import pa_lite
from pa_lite.cli.help import command
from pa_lite.cli.options import loads_a_model, parse_size, takes_start
from pa_lite.cli.terminal import show_next, tell

if TYPE_CHECKING:
    from pa_lite import EngineOptions
    from pa_lite.api.options import PairLike
    from pa_lite.api.server import RunningServer


@command("Serve a model as OpenAI's API, at any lam")
@takes_start
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; others require --api-key.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Port; 0: any free one.")
@click.option(
    "--api-key", envvar="PA_LITE_API_KEY", default="", metavar="KEY",
    help="Key that clients must send. Better in the variable PA_LITE_API_KEY, which other users cannot see.",
)  # fmt: skip
@click.option(
    "--allow-host", "allow_hosts", multiple=True, metavar="NAME", help="A further name of the server. Can be repeated."
)
@click.option(
    "--allow-origin", "allow_origins", multiple=True, metavar="ORIGIN",
    help="A web page's origin whose scripts may use the server, such as https://example.org. Can be repeated.",
)  # fmt: skip
@click.option("--queue", type=click.IntRange(0, 10_000), default=64, show_default=True, help="Requests that may wait.")
@click.option(
    "--parallel", type=click.IntRange(1, 256), default=4, show_default=True, help="Answers of each model at a time."
)
@click.option(
    "--max-memory", callback=parse_size, default="0", metavar="8G",
    help="Memory for all models of a pair, each at its lam; by default half of what is free.",
)  # fmt: skip
@click.option("--models", type=click.IntRange(0), default=0, help="Most models in memory; 0: as many as fit.")
@click.option(
    "--max-wait", type=click.FloatRange(0, 3600), default=2.0, show_default=True, metavar="SECONDS",
    help="How long requests may join a model that is about to move to another lam.",
)  # fmt: skip
@loads_a_model
def serve(
    model: PairLike,
    lam: str | None,
    study: str | None,
    extrapolate: bool,
    host: str,
    port: int,
    api_key: str,
    allow_hosts: tuple[str, ...],
    allow_origins: tuple[str, ...],
    queue: int,
    parallel: int,
    max_memory: int,
    models: int,
    max_wait: float,
    weight_type: str,
    engine: EngineOptions,
) -> None:
    """Serve MODEL (FILE.gguf, PAIR@LAM, a pair, or BASE INSTRUCT) as OpenAI's API: chat completions and completions.

    Requests to a pair may name any lam with two decimals, as demo@0.35; without one, --lam answers, else the best lam
    of --study, else 0.6. A prompt and its answer have up to 8192 tokens together, or --n-ctx.

    Ctrl-C stops it. Requires the extra: pip install 'pa-lite[serve]'.

    \b
    pa-lite serve demo
    pa-lite serve model.gguf --port 8000 --parallel 8
    PA_LITE_API_KEY=... pa-lite serve smollm2-360m --host 0.0.0.0 --max-memory 8G
    """
    from pa_lite.api.server import running_server

    options = pa_lite.ServeOptions(
        host=host, port=port, api_key=api_key, allow_hosts=allow_hosts, allow_origins=allow_origins, queue=queue,
        parallel=parallel, max_memory=max_memory, models=models, max_wait=max_wait,
    )  # fmt: skip
    started = running_server(model, options, engine, weight_type, lam=lam, study=study, extrapolate=extrapolate)
    with started as server:
        show_server(server, bool(api_key))
        server.wait()
    tell("stopped", err=True)


def show_server(server: RunningServer, has_key: bool) -> None:
    """Show where the server is, what is in memory, and a request to try."""
    host = server.host
    at = f" at lam {host.lam:g}, and at any other as {host.name}@0.35" if host.lam is not None else ""
    tell(f"{server.url}/v1 serves {host.name}{at}")
    tell(host.models.memory.description, err=True)
    if host.models.moves_reload:
        tell("note: weights are on a GPU: a move to a lam that is not in memory loads the model again.", err=True)
    question = "What does Tobi do?" if host.name == "demo" else "What is the capital of France?"
    body = json.dumps({"model": host.name, "messages": [{"role": "user", "content": question}]})
    key = ' -H "Authorization: Bearer $PA_LITE_API_KEY"' if has_key else ""
    show_next(try_it=f"curl {server.url}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'")
