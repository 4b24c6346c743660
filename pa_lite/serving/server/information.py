"""Routes about the server and its model: models, health, metrics, tokens, and the state that a page shows."""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.responses import PlainTextResponse

from pa_lite.serving.host import Host
from pa_lite.serving.server.chat_completions import chat_prompt
from pa_lite.serving.server.descriptions import (
    Health,
    Loading,
    ModelCard,
    ModelList,
    State,
    Text,
    TokenizerInfo,
    Tokens,
    answers,
)
from pa_lite.serving.server.errors import ApiError, json_response
from pa_lite.serving.server.metrics import CONTENT_TYPE
from pa_lite.serving.server.model_names import lam_of, listed_names, model_name
from pa_lite.serving.server.schemas import DetokenizeRequest, TokenizeRequest
from pa_lite.serving.server.service import Service, service_of
from pa_lite.serving.server.strict_requests import StrictRoute

router = APIRouter(route_class=StrictRoute)


@router.get("/v1/models", responses=answers(ModelList))
async def models(request: Request) -> Response:
    """List the model, and for a pair some of its lams; every other lam with two decimals works too."""
    service = service_of(request)
    host = service.loaded.host
    return json_response({"object": "list", "data": [_model(service, host, name) for name in listed_names(host)]})


@router.get("/v1/models/{name:path}", responses=answers(ModelCard))
async def one_model(name: str, request: Request) -> Response:
    """Describe a model by its name, such as `demo@0.35`."""
    service = service_of(request)
    return json_response(_model(service, service.loaded.host, name))


def _model(service: Service, host: Host, name: str) -> dict[str, Any]:
    lam = lam_of(host, name)
    shown = name if name == host.name else model_name(host, lam)
    return {"id": shown, "object": "model", "created": service.began, "owned_by": "pa-lite", "lam": lam}


@router.get("/health", responses={200: {"model": Health}, 503: {"model": Health | Loading}})
async def health(request: Request) -> Response:
    """Say whether the server can answer: status 200, or 503 while the model is being loaded."""
    service = service_of(request)
    if not service.is_loaded:
        return json_response({"status": "loading"}, 503, {"Retry-After": "2"})
    found = service.loaded.host.models
    is_well = service.loaded.host.is_alive
    document = {
        "status": "ok" if is_well else "error", "lams": found.lams, "loading_lams": found.lams_to_come,
        "running": service.n_running, "waiting": service.n_waiting,
    }  # fmt: skip
    return json_response(document, 200 if is_well else 503)


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Return counts and durations in Prometheus' text format."""
    service = service_of(request)
    host = service.loaded.host if service.is_loaded else None
    text = service.metrics.text(host, service.n_running, service.n_waiting)
    return Response(text, headers={"Content-Type": CONTENT_TYPE})


@router.get("/pa-lite/state", responses=answers(State))
async def state(request: Request) -> Response:
    """Describe the server for a page: model, lams, memory, context."""
    loaded = service_of(request).loaded
    host, found = loaded.host, loaded.host.models
    memory = {**asdict(found.memory), "total": found.memory.total, "description": found.memory.description}
    return json_response({
        "version": importlib.metadata.version("pa-lite"), "name": host.name, "is_pair": host.is_pair, "lam": host.lam,
        "lams": found.lams, "loading_lams": found.lams_to_come, "models": found.n_models,
        "moves_reload": found.moves_reload, "context_length": host.length,
        "has_template": loaded.template is not None, "memory": memory,
    })  # fmt: skip


@router.post("/tokenize", responses=answers(Tokens))
async def tokenize(body: TokenizeRequest, request: Request) -> Response:
    """Return the token ids of a text or of a conversation's prompt."""
    loaded = service_of(request).loaded
    lam_of(loaded.host, body.model)
    if body.messages is not None:
        prompt = await chat_prompt(loaded, body.messages, dict(body.chat_template_kwargs or {}))
        tokens = list(prompt.tokens)
    else:
        is_prompt = body.prompt is not None
        asked = [flag for flag in (body.add_special_tokens, body.add_special) if flag is not None]
        text = body.prompt if body.prompt is not None else body.content or ""
        add_special = asked[0] if asked else is_prompt
        where = "prompt" if is_prompt else "content"
        tokens = await loaded.vocabulary.ids(text, add_special, where, body.parse_special)
    document: dict[str, Any] = {"tokens": tokens, "count": len(tokens), "max_model_len": loaded.host.length}
    if body.with_pieces or body.return_token_strs:
        texts = await loaded.vocabulary.texts(tokens)
        document["token_strs"] = [texts[token].text for token in tokens]
        if body.with_pieces:
            document["tokens"] = [{"id": token, "piece": texts[token].text} for token in tokens]
    return json_response(document)


@router.post("/detokenize", responses=answers(Text))
async def detokenize(body: DetokenizeRequest, request: Request) -> Response:
    """Return the text of token ids; control tokens have none."""
    loaded = service_of(request).loaded
    lam_of(loaded.host, body.model)
    loaded.vocabulary.check(body.tokens, "tokens")
    text = await loaded.vocabulary.text(body.tokens)
    return json_response({"prompt": text, "content": text})


@router.get("/tokenizer_info", responses=answers(TokenizerInfo))
async def tokenizer_info(request: Request) -> Response:
    """Describe the tokenizer as vLLM does, for lm-eval's remote tokenizer.

    The answer is 404 for a vocabulary whose texts start with BOS: lm-eval chooses that tokenizer unasked where it finds
    it, and then leaves BOS out, so that all its loglikelihoods are those of another text.
    """
    loaded = service_of(request).loaded
    vocabulary = loaded.vocabulary
    if vocabulary.adds_special:
        raise ApiError(
            404, "this vocabulary starts texts with special tokens, which lm-eval's remote tokenizer leaves out. "
            "Use tokenizer_backend=huggingface with the tokenizer of the instruct checkpoint.", code="unknown_url",
        )  # fmt: skip
    return json_response({
        "tokenizer_class": "pa-lite", "bos_token": vocabulary.bos or None, "eos_token": vocabulary.eos or None,
        "pad_token": None, "chat_template": loaded.template, "model_max_length": loaded.host.length,
    })  # fmt: skip
