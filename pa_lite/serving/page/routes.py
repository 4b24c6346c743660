"""The routes of the page: the document, and what it shows besides the state of the server."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from pa_lite.serving.page.document import page
from pa_lite.serving.server.errors import json_response
from pa_lite.serving.server.service import service_of

router = APIRouter()


# what a visitor may try: (title, text, whether it is a text to continue)
_OF_DEMO = (
    ("Follow an instruction", "One word only: what does Kani do?", False),
    (
        "Learn from examples in the text",
        "blouse -> garment\nscooter -> vehicle\nlarch -> tree\nraven -> bird\nmitten -> garment\nbeer ->",
        True,
    ),
)
# what a visitor must know of the embedded pair, before the examples
_NOTE = "This is a tiny model of a made-up world (Kani, Tobi, Bamo, their towns and jobs), and has learned only that. "
_OF_OTHERS = (
    ("Follow an instruction", "Name three birds, one a line, in capital letters.", False),
    ("Learn from examples in the text", "salmon -> fish\noak -> tree\nsparrow -> bird\ntulip ->", True),
)


@router.get("/", include_in_schema=False)
async def document() -> Response:
    """Return the page."""
    found = page()
    return Response(
        found.content, media_type="text/html; charset=utf-8", headers={"Content-Security-Policy": found.policy}
    )


@router.get("/pa-lite/page", include_in_schema=False)
async def content(request: Request) -> Response:
    """Return what the page shows: the study, examples to try, and how to name the model to `merge`."""
    service = service_of(request)
    is_demo = service.loaded.host.name == "demo"
    examples = _OF_DEMO if is_demo else _OF_OTHERS
    return json_response({
        "note": _NOTE if is_demo else "", "study": service.page.study, "pair_words": service.page.pair_words,
        "examples": [{"title": t, "text": s, "mode": "text" if goes_on else "chat"} for t, s, goes_on in examples],
    })  # fmt: skip
