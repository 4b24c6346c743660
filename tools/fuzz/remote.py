"""Fuzzing targets for untrusted programs and servers: chat templates in their sandbox, the Hub's answers."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any
from unittest import mock

import llama_cpp.llama_chat_format  # noqa: F401 - loaded here, and not when a template is first judged

from pa_lite.checkpoints.hub import http as hub_http
from pa_lite.checkpoints.hub.checkpoints import weight_files
from pa_lite.checkpoints.hub.http import file_facts
from pa_lite.checkpoints.hub.ranges import RemoteFile
from pa_lite.checkpoints.hub.references import HubReference
from pa_lite.checkpoints.hub.repositories import listing
from pa_lite.engine import template_worker
from pa_lite.errors import EngineError
from tools.fuzz.binary import json_bytes
from tools.fuzz.gguf import damage
from tools.fuzz.json import JsonMutator, Words
from tools.fuzz.oracle import Target, whole

# --- chat templates: rendered as in the worker, with smaller limits, for many a second ---

_SECONDS, _MEMORY = 0.05, 48 << 20
_TEMPLATES = rb"""
{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}{{ m['content'] }}<|im_end|>{% endfor %}
{% if add_generation_prompt %}<|im_start|>assistant{% endif %}

{%- set ns = namespace(found=false) -%}{%- for message in messages -%}
{%- if loop.first and message.role == 'system' -%}{{ message.content | trim }}{%- else -%}
[INST] {{ message['content'] }} [/INST]{%- endif -%}{%- endfor -%}

{% macro turn(m, deep=0) %}{{ m.role | upper }}: {{ m.content | tojson }}{{ caller() if caller else '' }}
{% endmacro %}{{ turn(messages[-1]) }}{{ raise_exception('no') if messages | length > 3 }}{{ strftime_now('%Y') }}

{% for i in range(3) %}{% for j in messages %}{{ i ~ j.content[::-1] }}{% if i > 1 %}{% break %}{% endif %}
{% endfor %}{% endfor %}{{ 'a' * 10 }}{{ '%s' | format('x') }}{{ [1, 2] | sum }}{{ {'a': 1} | items | list }}
"""
# parts of templates, and known attacks on sandboxes, one a line
_PIECES = rb"""
{{
}}
{%
%}
{#
#}
'
(
)
[
|
~
**
//
%
..
{{ ''.__class__.__mro__ }}
{{ cycler.__init__.__globals__ }}
{{ self._TemplateReference__context }}
{{ messages.append(messages) }}
{{ 'a' * 10 ** 10 }}
{{ 9 ** 9 ** 9 }}
{{ range(10 ** 9) | list }}
{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}
{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}
{% include '/etc/passwd' %}
{% import 'os' as os %}
{% extends 'x' %}
{% set x = messages %}
{% block a %}
{{ '%999999999d' % 1 }}
{{ '{:>999999999}'.format(1) }}
{{ 'x'.join(range(9)) }}
{{ ('a' * 999) | center(99999999) }}
{{ messages | attr('__class__') }}
{{ ''['\x5f\x5fclass\x5f\x5f'] }}
{{ '{0.__class__}'.format(1) }}
{{ '{0.__class__.__mro__}' | format(1) }}
{{ lipsum(9999) }}
{% raw %}
{% endfor %}
{% endif %}
{{ raise_exception('\n\x1b') }}
{% continue %}
{{ messages | tojson(indent=99999) }}
{{ 1 / 0 }}
{{ x.y.z }}
{{ messages[10 ** 30] }}
{{ dict(a=1).update(b=2) }}
{{ strftime_now('%' * 99) }}
{{ [] | sort(attribute='a.b') | first }}
{{ 'a' | replace('', 'bb' * 999) }}
{% filter upper %}
{% call f() %}
{% do messages.pop() %}
{{ caller() }}
{{ loop.index }}
{{ none + 1 }}
{{ 'a\ud800' }}
{{ messages | map('upper') | list }}
{{ [[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]] }}
"""


def _piece(random: Random) -> bytes:
    return random.choice(_PIECES.strip(b"\n").split(b"\n"))


def mutate_template(data: bytes, random: Random) -> bytes:
    """Return a template with a piece inserted, removed, repeated or replaced; pieces are cut at syntax marks."""
    choice = random.randrange(10)
    if choice == 0:
        return damage(data, random)
    bounds = [0, *(i + 2 for i in range(len(data) - 1) if data[i : i + 2] in (b"}}", b"%}"))]
    at = random.choice(bounds)
    if choice < 5:
        return data[:at] + _piece(random) + data[at:]
    k = random.randrange(len(bounds))
    start, stop = bounds[k], [*bounds, len(data)][k + 1]
    if choice == 5:
        return data[:start] + data[stop:]
    if choice == 6:
        return data[:at] + data[start:stop] + data[at:]
    if choice == 7:
        return data[:start] + data[start:stop] * random.choice((2, 3, 30)) + data[stop:]
    if choice == 8:
        return data[:start] + _piece(random) + data[stop:]
    inner = random.randrange(len(data) + 1)
    return data[:inner] + _piece(random).strip(b"{}% ") + data[inner:]


class _TooLong(BaseException):
    """The time is up. Templates cannot catch it."""


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise _TooLong


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    """Apply the worker's limits of memory and processor time to one rendering in this process."""
    with open("/proc/self/statm", encoding="ascii") as f:
        held = int(f.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before, handler = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGVTALRM, _stop)
    resource.setrlimit(resource.RLIMIT_AS, (held + _MEMORY, before[1]))
    signal.setitimer(signal.ITIMER_VIRTUAL, _SECONDS)
    try:
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, handler)
            resource.setrlimit(resource.RLIMIT_AS, before)
    except (MemoryError, _TooLong) as e:  # the time may also be up within `finally`
        signal.signal(signal.SIGVTALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)
        raise EngineError("beyond the limits") from e  # as reported when the worker is killed


_MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hé <|im_end|>\n{{ x }}"}]


def _render(folder: Path) -> None:
    text = (folder / "chat_template.jinja").read_bytes().decode("utf-8", "replace")
    with _limits():
        try:
            answer = template_worker.do({"template": text, "words": ["<think>"]})
            answer = template_worker.do({
                "template": text, "bos": "<s>", "eos": "</s>", "arguments": {"enable_thinking": False},
                "date": "2026-02-28", "conversations": [_MESSAGES], "add_generation_prompt": True,
                "characters": 200_000,
            })  # fmt: skip
        except MemoryError:
            raise
        except Exception as e:  # noqa: BLE001 - an untrusted template may raise anything
            answer = {"error": [f"{type(e).__name__}: {str(e)[:300]}"]}
    json.dumps(answer)


# --- the Hub: a transport that returns answers from the input, in order ---

_COMMIT, _SHA = "0123456789abcdef0123456789abcdef01234567", "ab" * 32
_ANSWER = Words(
    ("status", "headers", "body", "sha", "siblings", "rfilename", "type", "path", "size", "oid", "lfs", "ETag",
     "Link", "X-Repo-Commit", "X-Linked-Etag", "X-Linked-Size", "Content-Length", "Content-Range", "Content-Encoding",
     "Location", "Retry-After", "RateLimit", "X-Error-Code", "X-Error-Message", "id", "private", "lastModified",
     "call"),
    (200, 206, 302, 307, 401, 403, 404, 416, 429, 500, 503, _COMMIT, _SHA, "model.safetensors", "../x", "a/../../b",
     "bytes 0-15/16", "bytes 0-15/*", "bytes 8-9/16", "gzip", "16", "/a/b", "http://elsewhere.invalid/x", "//x",
     "http://[", "GatedRepo", "RepoNotFound", "EntryNotFound", "\u20ac", {"sha": _COMMIT}, [], "file:///etc/passwd",
     "listing", "facts", "content", {"status": 200, "headers": {}, "body": {}}),
)  # fmt: skip


def _hub_seeds() -> list[bytes]:
    facts = {
        "status": 200,
        "headers": {"X-Repo-Commit": _COMMIT, "ETag": f'"{_SHA}"', "Content-Length": "16"},
        "body": "",
    }
    moved = {"status": 302, "headers": {"X-Repo-Commit": _COMMIT, "X-Linked-Etag": f'"{_SHA}"', "X-Linked-Size": "16",
                                        "Location": "http://storage.invalid/blob"}, "body": ""}  # fmt: skip
    info = {"status": 200, "headers": {}, "body": {"id": "a/b", "sha": _COMMIT, "siblings": []}}
    tree = {"status": 200, "headers": {}, "body": [
        {"type": "file", "path": "model.safetensors", "size": 16, "oid": _COMMIT, "lfs": {"oid": _SHA, "size": 16,
         "pointerSize": 130}}, {"type": "file", "path": "config.json", "size": 2, "oid": _COMMIT},
        {"type": "directory", "path": "sub", "size": 0, "oid": _COMMIT}]}  # fmt: skip
    part = {
        "status": 206,
        "headers": {"ETag": f'"{_SHA}"', "Content-Range": "bytes 0-15/16"},
        "body": "0123456789abcdef",
    }
    busy = {"status": 503, "headers": {"Retry-After": "0"}, "body": ""}
    gated = {"status": 403, "headers": {"X-Error-Code": "GatedRepo", "X-Error-Message": "ask"}, "body": {"error": "no"}}
    together = [("listing", [info, tree]), ("facts", [facts]), ("facts", [busy, moved]), ("content", [facts, part]),
                ("content", [moved, part]), ("listing", [gated])]  # fmt: skip
    return [json_bytes({"call": call, "answers": answers}) for call, answers in together]


def _text(value: Any) -> bytes:
    return str(value).encode("utf-8", "replace")


def _ask_hub(folder: Path) -> None:
    import huggingface_hub
    from huggingface_hub.errors import HTTPError

    http: Any = importlib.import_module(HTTPError.__module__.partition(".")[0])  # httpx, or its successor
    try:
        script = json.loads((folder / "answers.json").read_bytes())
        call, answers = str(script["call"]), [a for a in script["answers"] if isinstance(a, dict)]
    except (ValueError, KeyError, TypeError, RecursionError):
        return
    left = iter(answers)

    def handle(request: Any) -> Any:
        assert request.url.host == "hub.invalid" or "authorization" not in request.headers, "the token went elsewhere"
        answer = next(left, {"status": 404})
        fields, body = answer.get("headers"), answer.get("body")
        status = answer.get("status")
        return http.Response(
            status if type(status) is int and 100 <= status <= 599 else 200,
            headers=[(_text(k), _text(v)) for k, v in fields.items()] if isinstance(fields, dict) else [],
            stream=http.ByteStream(_text(body) if isinstance(body, str) else json.dumps(body).encode()),
        )

    def client() -> Any:
        return http.Client(transport=http.MockTransport(handle), trust_env=False)

    environment = {"HF_ENDPOINT": "http://hub.invalid", "HF_HUB_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "",
                   "HF_TOKEN": "hf_secret"}  # fmt: skip
    with (
        _clients(client),
        _environment(environment),
        mock.patch.object(huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", True),
        mock.patch.multiple(hub_http, _FIRST_WAIT=0.0, _LONGEST_ASKED=0.0, QUICK=3, PATIENT=3),
    ):
        _call(call)


@contextlib.contextmanager
def _clients(make: Callable[[], Any]) -> Iterator[None]:
    """Let huggingface_hub use such clients within the block, and restore its own afterwards."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    set_client_factory(make)
    try:
        yield
    finally:
        set_client_factory(default_client_factory)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables within the block; mock.patch.dict would rewrite all of them."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _call(call: str) -> None:
    reference = HubReference(repo="a/b", revision="main")
    if call == "listing":
        files = listing(reference).files
        assert all(".." not in f.name.split("/") and not f.name.startswith("/") for f in files)
        weight_files(files, reference, [])
        return
    pinned = HubReference(repo="a/b", revision="main", file="model.safetensors")
    facts = file_facts(pinned)
    if call == "content":
        held = RemoteFile(pinned, facts).open().read(64)
        assert len(held) == min(64, facts.size), "bytes were left out"


TARGETS = (
    Target("template", "chat templates in the sandbox", whole("chat_template.jinja"), _render, mutate_template,
           lambda: [t.replace(b"\n", b"") for t in _TEMPLATES.split(b"\n\n")], bounded=False, longest=1 << 10),
    Target("hub", "the Hub's answers", whole("answers.json"), _ask_hub, JsonMutator(_ANSWER), _hub_seeds),
)  # fmt: skip
