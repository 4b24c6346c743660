"""Make requests for loglikelihoods: tokenise texts by lm-eval's rules. Runs no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pa_lite.engine.model import Model
from pa_lite.errors import EngineError, InputError


@dataclass(frozen=True)
class Request:
    """A continuation to score: token ids, of which the first `n_context` are given and the rest are predicted.

    `n_bytes` is the length of the continuation's text in UTF-8.
    """

    tokens: tuple[int, ...]
    n_context: int
    n_bytes: int = 0


def make_requests(
    model: Model, context: str, continuations: Sequence[str], parse_special: bool = False
) -> list[Request]:
    """Return a request for each continuation, tokenised as lm-eval does.

    Spaces at the end of the context move to the continuation; both are encoded together, and the number of tokens of
    the context alone is where the continuation starts. BOS is added if the vocabulary asks for it; an empty context is
    the prefix token alone. With `parse_special`, control tokens that the texts spell out are read as such, and a BOS at
    the start of the context is not repeated. Raises InputError for a continuation that is empty or adds no token.
    Source: lm-eval, `TemplateLM._encode_pair`.
    """
    if not all(continuations):
        raise InputError(f"nothing to score after {context[-40:]!r}: the continuation is empty.")
    add_special = bool(context) and not (parse_special and begins_with_bos(model, context))
    n_context = len(model.tokenize(context.rstrip(), add_special, parse_special)) if context else 0
    prefix = () if n_context or model.prefix_token is None else (model.prefix_token,)
    requests = []
    for text in continuations:
        tokens = model.tokenize(context + text, add_special, parse_special)
        whole = tokens if prefix and tokens[:1] == [*prefix] else [*prefix, *tokens]  # no second prefix
        if len(whole) <= n_context + len(prefix):
            raise InputError(f"nothing to score after {context[-40:]!r}: {text!r} adds no token there.")
        requests.append(Request(tuple(whole), n_context + len(prefix), len(text.encode())))
    return requests


def begins_with_bos(model: Model, text: str) -> bool:
    """Return whether a text starts with the vocabulary's BOS token spelled out, as chat templates do."""
    bos = model.special_text("bos")
    return bool(bos) and text.startswith(bos)


def rolling_requests(
    model: Model, text: str, max_length: int | None = None, parse_special: bool = False
) -> list[Request]:
    """Return requests that predict every token of a text once, in windows of `max_length` tokens (default: the most).

    The text follows the prefix token. A window's context is the token before it; the last window, usually shorter, gets
    more context to fill it up. `n_bytes` counts the window's tokens. An empty text has no windows. For `parse_special`
    see make_requests. Raises EngineError for a vocabulary with neither BOS nor EOS. Source: lm-eval,
    `get_rolling_token_windows` with a context of one token.
    """
    length = max_length or model.max_length
    tokens = model.tokenize(text, False, parse_special)
    if model.prefix_token is None:
        raise EngineError(f"{model.label}: has neither a BOS nor an EOS token to start a text with.")
    whole = (model.prefix_token, *tokens)
    windows = []
    for start in range(0, len(tokens), length):
        stop = min(start + length, len(tokens))
        begin = 0 if start == 0 else stop - length  # index in `whole` of the first context token
        n_bytes = sum(len(model.piece(t)) for t in tokens[start:stop])
        windows.append(Request(whole[begin : stop + 1], start + 1 - begin, n_bytes))
    return windows


def truncate(request: Request, max_length: int) -> Request:
    """Return a request cut at the left to max_length decoded tokens (the last one is not decoded), as lm-eval does.

    Raises EngineError when its continuation alone does not fit.
    """
    excess = len(request.tokens) - (max_length + 1)
    if excess <= 0:
        return request
    if request.n_context <= excess:
        raise EngineError(
            f"a continuation of {len(request.tokens) - request.n_context} tokens exceeds the context of {max_length}. "
            "Shorten it, or allow a longer context (--n-ctx)."
        )
    return replace(request, tokens=request.tokens[excess:], n_context=request.n_context - excess)
