"""The page in real Chromium, on a real server: answers by lam, streams, stops, lost servers, hostile text, access."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

import pa_lite
from pa_lite.api.server import ServeOptions, running_server
from pa_lite.serving.page.document import page

QUESTION = "One word only: what does Kani do?"
HOSTILE = "<img src=x onerror=\"document.title='taken'\"> <script>document.title='taken'</script> [a](javascript:1) ![i](http://192.0.2.1/x)"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_server("demo", ServeOptions(port=0, parallel=4)) as server:
        yield server.url


@dataclass
class Tab:
    """A page in the browser, and what happened in it."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def ask(self, text: str) -> None:
        self.page.fill("#question", text)
        self.page.click("#send")

    def answers(self) -> list[str]:
        """Wait until the last answers are complete, and return their texts."""
        self.page.wait_for_selector("#send", state="visible", timeout=60_000)
        cards = self.page.locator(".turn:last-child .answer .body")
        return [cards.nth(i).inner_text().strip() for i in range(cards.count())]

    def set_lam(self, column: int, lam: float) -> None:
        self.page.locator(f"#lam-{column}").fill(f"{lam}")


def open_tab(browser: Any, url: str, **context: Any) -> Tab:
    tab = Tab(browser.new_context(**context).new_page())
    tab.page.on("console", lambda m: tab.complaints.append(m.text) if m.type in ("error", "warning") else None)
    tab.page.on("pageerror", lambda e: tab.complaints.append(str(e)))
    tab.page.on("request", lambda r: tab.requests.append(r.url))
    tab.page.goto(url)
    tab.page.wait_for_selector("#examples button")
    return tab


@pytest.fixture
def tab(browser: Any, url: str) -> Iterator[Tab]:
    opened = open_tab(browser, url)
    yield opened
    assert opened.complaints == []
    assert [each for each in opened.requests if not each.startswith((url, "data:", "blob:"))] == []
    opened.page.context.close()


def chat_alone(lam: float, text: str) -> str:
    with pa_lite.load(f"demo@{lam:g}") as model:
        return model.chat(text).text


def test_the_slider_changes_the_answer(tab: Tab) -> None:
    found = {}
    for lam in (0.0, 0.35, 1.0):
        tab.set_lam(0, lam)
        assert tab.page.locator(".slider.col-0 output").inner_text() == f"{lam:.2f}"
        tab.page.click("#clear")
        tab.ask(QUESTION)
        (found[lam],) = tab.answers()
    assert found == {lam: chat_alone(lam, QUESTION) for lam in found}


def test_three_columns_answer_each_at_its_lam(tab: Tab) -> None:
    tab.page.check("input[name=columns][value='3']", force=True)
    for column, lam in enumerate((0.0, 0.5, 1.0)):
        tab.set_lam(column, lam)
    tab.ask("Who is Kani?")
    assert tab.answers() == [chat_alone(lam, "Who is Kani?") for lam in (0.0, 0.5, 1.0)]
    titles = tab.page.locator(".answer h2").all_inner_texts()
    assert [re.sub(r"\s.*s.*", "", t.replace("A · ", "").replace("B · ", "").replace("C · ", "")) for t in titles]
    assert [f"lam {lam:.2f}" in title for lam, title in zip((0.0, 0.5, 1.0), titles, strict=True)] == [True] * 3


def test_a_conversation_keeps_its_turns(tab: Tab) -> None:
    tab.set_lam(0, 1.0)
    tab.ask("Who is Kani?")
    first = tab.answers()
    tab.ask(QUESTION)
    second = tab.answers()
    with pa_lite.load("demo@1") as model:
        messages = [
            {"role": "user", "content": "Who is Kani?"}, {"role": "assistant", "content": first[0]},
            {"role": "user", "content": QUESTION},
        ]  # fmt: skip
        assert second == [model.chat(messages).text]


def test_examples_are_continued_as_text(tab: Tab) -> None:
    tab.page.locator("#examples button").last.click()
    answers = tab.answers()
    assert len(answers) == 3
    assert tab.page.locator("input[name=mode][value=text]").is_checked()
    assert all(len(answer.removeprefix("…").split()) >= 1 for answer in answers)


def test_a_text_has_lines_and_is_sent_with_ctrl_enter(tab: Tab) -> None:
    assert "made-up world" in tab.page.inner_text("#hint")
    tab.page.check("input[name=mode][value=text]", force=True)
    tab.page.type("#question", "larch -> tree")
    tab.page.press("#question", "Enter")
    tab.page.type("#question", "raven ->")
    assert tab.page.locator(".turn").count() == 0
    tab.page.press("#question", "Control+Enter")
    assert len(tab.answers()) == 1
    assert "larch -> tree\nraven ->" in tab.page.locator(".turn").inner_text()


def test_more_columns_keep_the_chosen_lam(tab: Tab) -> None:
    tab.set_lam(0, 0.4)
    shown = tab.page.locator(".slider output")
    for columns, lams in ((3, ["0.00", "0.40", "1.00"]), (1, ["0.40"])):
        tab.page.check(f"input[name=columns][value='{columns}']", force=True)
        assert shown.all_inner_texts() == lams


def test_curves_words_and_marks_follow_the_slider(tab: Tab) -> None:
    tab.set_lam(0, 0.6)
    words = tab.page.inner_text("#words")
    shipped = json.loads((Path(pa_lite.__file__).parents[1] / "models" / "demo" / "curves.json").read_text("utf-8"))
    at = shipped["lams"].index(0.6)
    for curve in shipped["curves"]:
        assert f"{curve['name']} {100 * curve['values'][at]:.0f} %" in words
    assert tab.page.locator("#chart polyline").count() == len(shipped["curves"]) == 2
    assert tab.page.locator("#chart circle").count() == 2
    marks = tab.page.locator("#marks button")
    assert marks.count() == len(shipped["marks"]) + 2
    marks.last.click()
    assert tab.page.inner_text("#words").startswith("At 1:")
    assert tab.page.inner_text("#command") == "pa-lite merge demo --lam 1 -o demo-1.gguf"


def test_edit_and_retry(tab: Tab) -> None:
    tab.set_lam(0, 1.0)
    tab.ask("Who is Kani?")
    tab.answers()
    tab.page.get_by_role("button", name="Ask again with the present lams").click()
    tab.answers()
    tab.page.get_by_role("button", name="Edit this question and ask again from here").click()
    assert tab.page.locator(".turn").count() == 0
    assert tab.page.input_value("#question") == "Who is Kani?"
    tab.page.press("#question", "Enter")
    assert tab.answers() == [chat_alone(1.0, "Who is Kani?")]


def test_conversations_are_stored_only_on_request(tab: Tab) -> None:
    tab.ask("Who is Kani?")
    said = tab.answers()
    assert tab.page.evaluate("Object.keys(localStorage).length + document.cookie.length") == 0
    tab.page.click("#open-settings")
    tab.page.check("#keep")
    tab.page.get_by_role("button", name="Done").click()
    tab.page.reload()
    tab.page.wait_for_selector(".answer")
    assert tab.page.locator(".answer .body").all_inner_texts() == said
    tab.page.click("#open-settings")
    tab.page.uncheck("#keep")
    tab.page.get_by_role("button", name="Done").click()
    assert tab.page.evaluate("Object.keys(localStorage).length") == 0


def check_access(tab: Tab, axe: Any) -> None:
    found = axe.run(tab.page)
    assert found.violations_count == 0, found.generate_report()
    assert tab.page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_hard_to_reach(browser: Any, url: str, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    tab = open_tab(browser, url, viewport={"width": width, "height": 740}, color_scheme=scheme)
    tab.page.check("input[name=columns][value='2']", force=True)
    tab.ask("Who is Kani?")
    tab.answers()
    check_access(tab, axe.Axe())
    tab.page.click("#open-settings")
    check_access(tab, axe.Axe())
    tab.page.context.close()


def test_everything_works_by_keyboard(tab: Tab) -> None:
    tab.page.focus("#lam-0")
    tab.page.keyboard.press("End")
    assert tab.page.locator(".slider output").inner_text() == "1.00"
    tab.page.focus("#question")
    tab.page.keyboard.type("Who is Kani?")
    tab.page.keyboard.press("Enter")
    assert tab.answers() == [chat_alone(1.0, "Who is Kani?")]


class _Scripted(BaseHTTPRequestHandler):
    """A server with the page and a model whose answer a test decides: text that is hostile, or that never ends."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def _send(self, body: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        state = {"name": HOSTILE, "is_pair": False, "lam": None, "lams": [], "has_template": True}
        if self.path == "/":
            found = page()
            self._send(found.content, "text/html; charset=utf-8", Content_Security_Policy=found.policy)
        elif self.path == "/pa-lite/state":
            self._send(json.dumps(state).encode())
        elif self.path == "/pa-lite/page":
            example = {"title": HOSTILE, "text": HOSTILE, "mode": "chat"}
            self._send(json.dumps({"study": None, "pair_words": "", "examples": [example]}).encode())
        else:
            self._send(b"{}")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        is_endless = body["messages"][-1]["content"] == "endless"
        pieces = (
            ["word "] * 10_000
            if is_endless
            else [f"```\n{HOSTILE}\n```\n**{HOSTILE}** `{HOSTILE}`\n\n# {HOSTILE}\n- {HOSTILE}\n{HOSTILE}"]
        )
        try:
            for piece in pieces:
                event = {
                    "choices": [{"delta": {"content": piece, "reasoning_content": HOSTILE}, "finish_reason": None}]
                }
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
                self.wfile.flush()
                if is_endless:
                    time.sleep(0.02)
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            self.server.is_dropped = True  # type: ignore[attr-defined]


@pytest.fixture
def scripted() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Scripted)
    server.is_dropped = False  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_hostile_text_stays_text(browser: Any, scripted: ThreadingHTTPServer) -> None:
    tab = open_tab(browser, f"http://127.0.0.1:{scripted.server_port}")
    tab.ask(HOSTILE)
    (answer,) = tab.answers()
    assert answer.count("document.title='taken'") == 12  # twice in each of six forms
    assert tab.page.title() == f"{HOSTILE} · pa-lite"
    assert tab.page.locator("img, a:not(.skip), iframe, object, #talk script").count() == 0
    assert tab.complaints == []
    assert all(
        each.startswith(f"http://127.0.0.1:{scripted.server_port}") for each in tab.requests if "data:" not in each
    )
    tab.page.context.close()


def test_stop_stops(browser: Any, scripted: ThreadingHTTPServer) -> None:
    tab = open_tab(browser, f"http://127.0.0.1:{scripted.server_port}")
    tab.ask("endless")
    while len(tab.page.locator(".body").inner_text().split()) < 6:
        tab.page.wait_for_timeout(50)
    tab.page.click("#stop")
    (text,) = tab.answers()
    assert 5 <= len(text.split()) < 1000
    assert tab.page.locator(".answer", has_text="Stopped.").count() == 1
    end = time.monotonic() + 30
    while not scripted.is_dropped and time.monotonic() < end:  # type: ignore[attr-defined]
        time.sleep(0.05)
    assert scripted.is_dropped  # type: ignore[attr-defined]
    tab.page.context.close()


def test_a_lost_server_is_named_and_found_again(browser: Any) -> None:
    with running_server("demo", ServeOptions(port=0)) as server:
        url = server.url
        tab = open_tab(browser, url)
    tab.ask("Who is Kani?")
    tab.page.wait_for_selector("#banner", state="visible")
    assert "does not answer" in tab.page.inner_text("#banner")
    assert tab.page.locator(".answer .fault").inner_text() == "The server does not answer."
    with running_server("demo", ServeOptions(port=int(url.rpartition(":")[2]))):
        tab.page.wait_for_selector("#banner", state="hidden", timeout=60_000)
        tab.page.get_by_role("button", name="Ask again with the present lams").click()
        assert tab.answers() == [chat_alone(0.6, "Who is Kani?")]
    tab.page.context.close()


def test_a_key_is_asked_for(browser: Any) -> None:
    with running_server("demo", ServeOptions(port=0, api_key="secret")) as server:
        context = browser.new_context()
        opened = context.new_page()
        opened.goto(server.url)
        opened.wait_for_selector("#locked[open]")
        opened.fill("#key", "wrong")
        opened.click("#unlock button")
        opened.wait_for_selector("#locked[open]")
        opened.fill("#key", "secret")
        opened.click("#unlock button")
        opened.wait_for_selector("#examples button")
        assert opened.evaluate("Object.keys(localStorage).length + document.cookie.length") == 0
        context.close()
