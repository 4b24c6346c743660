"""The page as a document: self-contained, with a policy that allows only its own style and script."""

from __future__ import annotations

import base64
import hashlib
import re

from pa_lite.serving.page.document import page


def test_the_policy_allows_exactly_the_inline_parts() -> None:
    html, policy = page().content.decode("utf-8"), page().policy
    for name in ("script", "style"):
        (text,) = re.findall(rf"<{name}>(.*?)</{name}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}';" in policy
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy


def test_the_page_names_no_other_server_and_has_no_inline_handlers() -> None:
    html = page().content.decode("utf-8")
    addresses = set(re.findall(r"https?://[\w./]+", html))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name space
    markup = re.sub(r"<(script|style)>.*?</\1>", "", html, flags=re.DOTALL)
    assert re.findall(r"\son\w+=|\sstyle=|innerHTML", markup) == []
    assert "innerHTML" not in html
    assert "{{" not in markup
    assert len(page().content) < 60_000
