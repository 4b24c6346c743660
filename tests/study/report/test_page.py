"""Tests of a study's page in real Chromium: self-contained, no requests, charts, hover, and no injected scripts."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from plotly.offline import get_plotlyjs

from pa_lite.errors import InputError, OutputError
from pa_lite.sanitize import one_line, plain
from pa_lite.study.comparisons import holm
from pa_lite.study.curves import Curves, Series
from pa_lite.study.export import difference_rows, item_rows, lm_eval_document, reading_rows, to_csv, to_document
from pa_lite.study.report import matplotlib_charts
from pa_lite.study.report.matplotlib_charts import curves_svg, write_png
from pa_lite.study.report.page import to_html
from pa_lite.study.report.plotly_charts import curves_figure, panels_figure, plane_figure
from pa_lite.study.report.publish import ReportOptions, publish
from pa_lite.study.report.shapes import panel
from pa_lite.study.store import open_store, read_store
from pa_lite.study.summary import Example, StudySummary, against_ends, conclusion, readings, table
from pa_lite.study.sweep import sweep_pair
from tests.study.test_sweep import OPTIONS

LAMS = (0.0, 0.25, 0.5, 0.75, 1.0)
EVIL = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"


def _series(name: str, area: str, seed: int, *rates: float) -> Series:
    luck = np.random.default_rng(seed).random(160)
    return Series(
        name=name,
        area=area,
        values=np.array([(luck < r).astype(np.float64) for r in rates]),
        majority=0.1,
        chance=0.125,
    )


@pytest.fixture(scope="module")
def study() -> StudySummary:
    tasks = (
        _series("a<b>task", "knowledge", 1, 0.6, 0.7, 0.72, 0.6, 0.4),
        _series("second", "symbolic", 2, 0.9, 0.9, 0.8, 0.5, 0.3),
    )
    curves = Curves(lams=LAMS, tasks=tasks, follow=_series("demo", "following", 3, 0.1, 0.1, 0.3, 0.8, 0.85))
    examples = (Example("Say " + EVIL, ((0.0, EVIL, False), (0.5, "=1+1", True), (1.0, "", None))),)
    return StudySummary(
        pair="tiny",
        type="F16",
        curves=curves,
        examples=examples,
        setting=(("seed", "0"), ("x", EVIL)),
        remarks=("a remark",),
    )


@pytest.fixture(scope="module")
def page(study: StudySummary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(to_html(study), "utf-8")
    return path


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 390)])
def test_page_is_self_contained_and_shows_values(browser: Any, page: Path, scheme: str, width: int) -> None:
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
    tab, messages, requests = context.new_page(), [], []
    tab.on("console", lambda m: messages.append(m.text) if m.type in ("error", "warning") else None)
    tab.on("pageerror", lambda e: messages.append(str(e)))
    tab.on("request", lambda r: requests.append(r.url))
    tab.goto(page.as_uri())
    tab.wait_for_selector("#curves .scatterlayer .trace")
    assert tab.title() == "tiny between base and instruct"
    assert messages == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert tab.locator("#curves .scatterlayer .trace").count() == 4  # two curves, each with a band
    assert tab.locator("#plane .point").count() == len(LAMS)
    assert tab.locator("#panels .subplot").count() >= 2
    point = tab.locator("#curves .points .point").first
    point.scroll_into_view_if_needed()  # on a phone the sentences fill the first screen
    box = point.bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.wait_for_selector("#curves .hoverlayer .hovertext")
    hover = tab.locator("#curves .hoverlayer").text_content()
    assert "lam 0: " in hover
    assert "s.e." in hover
    # on a phone the page scrolls only vertically
    assert tab.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    ink = tab.evaluate("getComputedStyle(document.body).color")
    assert (ink == "rgb(28, 30, 33)") == (scheme == "light")
    context.close()


def test_scripts_in_answers_do_not_run(browser: Any, page: Path) -> None:
    tab = browser.new_page()
    tab.goto(page.as_uri())
    tab.wait_for_selector("#curves .scatterlayer")
    assert tab.title() == "tiny between base and instruct"
    assert tab.locator("td", has_text="document.title").count() >= 1
    assert tab.locator("img").count() == 0
    tab.close()


def test_downloads_contain_the_numbers(browser: Any, page: Path, study: StudySummary) -> None:
    tab = browser.new_page()
    tab.goto(page.as_uri())
    with tab.expect_download() as waiting:
        tab.get_by_text("averages.csv").click()
    text = Path(waiting.value.path()).read_text("utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == len(table(study.curves))
    assert float(rows[0]["value"]) == table(study.curves)[0]["value"]
    tab.close()


def test_text_is_escaped_in_the_source(study: StudySummary, page: Path) -> None:
    text = page.read_text("utf-8")
    assert EVIL not in text
    assert "a<b>task" not in text
    assert "&lt;script&gt;document.title" in text


def test_csv_formulas_are_escaped() -> None:
    text = to_csv([{"a": "=1+1", "b": -0.5, "c": None}, {"a": "@x", "b": float("nan"), "c": "plain, text"}])
    assert text == "a,b,c\n'=1+1,-0.5,\n'@x,,\"plain, text\"\n"
    assert to_csv([]) == ""


def test_document_contains_every_number(study: StudySummary) -> None:
    document = json.loads(json.dumps(to_document(study)))
    assert document["conclusion"] == conclusion(study.curves)
    best = [reading.best for reading in readings(study.curves)]
    assert [r["lam"] for r in document["readings"]] == [each.lam for each in best if each is not None]
    assert document["comparisons"]["few-shot"]["differs"] is True
    assert len(document["averages"]) == 6 * len(LAMS)  # all, two areas, two tasks, following
    for reading, each in zip(document["readings"], best, strict=True):
        assert each is not None
        assert reading["few_shot"] == {
            "value": each.few_shot.value, "low": each.few_shot.low, "high": each.few_shot.high,
        }  # fmt: skip
        assert set(reading["gain_over_instruct"]) == set(reading["gain_over_base"]) == {"value", "low", "high"}
    assert set(document["averages"][0]) == {"group", "lam", "value", "stderr", "n", "low", "high"}
    assert len(document["differences"]) == len(difference_rows(against_ends(study.curves))) == 6 * 2 * (len(LAMS) - 1)
    assert document["tasks"][0] == {
        "name": "a<b>task", "area": "knowledge", "n": 160, "majority": 0.1, "chance": 0.125, "clusters": None,
    }  # fmt: skip


def test_differences_name_what_their_p_is_corrected_for(study: StudySummary) -> None:
    rows = difference_rows(against_ends(study.curves))
    assert rows[0]["family"] == "few-shot against base, 4 lams"
    families = Counter(str(row["family"]) for row in rows)
    assert set(families.values()) == {4}
    assert len(families) == 12
    for name in families:
        family = [row for row in rows if row["family"] == name]
        assert [row["p_corrected"] for row in family] == holm([float(row["p"]) for row in family])
    assert [row["p_corrected_file"] for row in rows] == holm([float(row["p"]) for row in rows])
    assert all(row["p_corrected_file"] >= row["p_corrected"] for row in rows)  # type: ignore[operator]


def test_readings_are_rows_too(study: StudySummary) -> None:
    found = readings(study.curves)
    rows = list(csv.DictReader(io.StringIO(to_csv(reading_rows(found)))))
    assert [row["name"] for row in rows] == [each.name for each in found]
    best = found[0].best
    assert best is not None
    assert best.gain_over_base is not None
    assert float(rows[0]["few_shot"]) == best.few_shot.value
    assert float(rows[0]["few_shot_low"]) == best.few_shot.low
    assert float(rows[0]["gain_over_base_high"]) == best.gain_over_base.high
    undecided = reading_rows([replace(found[0], best=None)])[0]
    assert (undecided["lam"], undecided["gain_over_base"], undecided["few_shot_low"]) == (None, None, None)
    assert undecided.keys() == rows[0].keys()


def test_page_says_what_the_intervals_leave_out(study: StudySummary) -> None:
    text = " ".join(re.sub("<[^>]*>", "", to_html(study).replace(get_plotlyjs(), "")).split())
    assert "Intervals: 95%, over items with the tasks fixed; one draw of exemplars; its effect is not in the" in text
    assert "measured on items that had no part in choosing it" in text
    told = to_html(replace(study, setting=(("intervals", "as the setting says"),)))
    assert "Intervals: as the setting says. They do not cover" in told


def test_unknown_intervals_are_drawn_as_gaps(study: StudySummary) -> None:
    curves = Curves(lams=LAMS, tasks=(Series(name="one", area="a", values=np.full((5, 1), 0.5)),))
    band, line = curves_figure(curves)["data"]
    assert band["y"] == [None] * 10
    assert line["customdata"][0] == ["unknown", "unknown", 1]
    json.dumps(curves_figure(curves), allow_nan=False)
    assert "one" in to_html(replace(study, curves=curves))


def test_chart_is_deterministic(study: StudySummary) -> None:
    assert curves_svg(study.curves, "a < b & c") == curves_svg(study.curves, "a < b & c")


def test_publish_writes_all_reports(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no study results"):
        publish(tmp_path)
    run = tmp_path / "run"
    sweep_pair("demo", OPTIONS, run)
    options = ReportOptions(png=tmp_path / "png", csv=tmp_path / "items.csv", lm_eval=tmp_path / "lm")
    written, study = publish(run, options)
    assert [p.name for p in written] == [
        "report.html", "curves.png", "plane.png", "tasks.png", "items.csv",
        *(f"results_demo_F16_{lam:g}.json" for lam in OPTIONS.lams),
    ]  # fmt: skip
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in written[1:4])
    rows = list(csv.DictReader((tmp_path / "items.csv").open(encoding="utf-8")))
    assert len(rows) == 180
    document = json.loads(written[-1].read_text("utf-8"))
    kind = document["results"]["demo_kind"]
    assert kind["acc,none"] == pytest.approx(study.curves.tasks[0].values[-1].mean())
    assert kind["acc_stderr,none"] > 0
    assert document["n-samples"]["demo_kind"] == {"original": 24, "effective": 24}
    publish(run)  # an earlier page in the run folder is replaced
    (run / "report.html").write_text("<!doctype html>\n<html>mine</html>", "utf-8")
    with pytest.raises(OutputError, match=r"report\.html: exists already"):
        publish(run)
    assert (run / "report.html").read_text("utf-8").endswith("mine</html>")
    publish(run, ReportOptions(force=True))
    with pytest.raises(OutputError, match="exists already"):
        publish(run, ReportOptions(csv=tmp_path / "items.csv"))
    with pytest.raises(InputError, match="type 'Q8_0' was not measured"):
        publish(run, ReportOptions(type="Q8_0"))
    with read_store(run) as store:
        assert len(list(item_rows(store))) == 180
        with pytest.raises(InputError, match=r"no finished task at lam 0\.3"):
            lm_eval_document(store, "F16", 0.3)


def test_unfinished_lam_is_left_out_with_a_remark(tmp_path: Path) -> None:
    sweep_pair("demo", OPTIONS, tmp_path)
    with open_store(tmp_path) as store:
        store._connection.execute("UPDATE cells SET summary = NULL WHERE lam = 0.5 AND name = 'demo_kind'")
    _, study = publish(tmp_path)
    assert study.curves.lams == (0.0, 1.0)
    assert study.remarks == ("Not finished and left out: lam 0.5.",)


class Seen(HTMLParser):
    """Collects a page's elements, attributes and text as a browser parses them."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


HIDING = "a\x1b[31m\x00b\u202ec\u2066\ufeff\U000e0041\r\nd\te"
BREAKOUTS = ["</script><script>alert(1)</script>", "<!--<script>", "]]>", "'\"><img src=x onerror=alert(1)>", "{{7*7}}",
             "${alert(1)}", "%{x}", "$\\frac{$", HIDING, "a\ufffe\uffff\U0001fffe\ufdd0"]  # fmt: skip


def page_with(study: StudySummary, name: str) -> str:
    """Return a page in which every untrusted name is `name`, without plotly's script."""
    tasks = tuple(replace(t, name=name + str(i), area=f"{name} {i}") for i, t in enumerate(study.curves.tasks))
    curves = replace(study.curves, tasks=tasks, follow=replace(study.curves.follow, name=name))  # type: ignore[type-var]
    outputs = tuple((lam, name, followed) for lam, _, followed in study.examples[0].outputs)
    page = to_html(replace(
        study, pair=name, type=name, curves=curves, examples=(Example(name, outputs),), setting=((name, name),),
        remarks=(name,),
    ))  # fmt: skip
    return page.replace(get_plotlyjs(), "")


@pytest.mark.parametrize("name", BREAKOUTS)
def test_hostile_name_is_plain_text_on_the_page(study: StudySummary, name: str) -> None:
    harmless, seen, wanted = Seen(), Seen(), plain(name.replace("\r\n", "\n"))
    page = page_with(study, name)
    harmless.feed(page_with(study, "name"))
    seen.feed(page)
    assert seen.elements == harmless.elements
    assert [a for a in seen.attributes if a[0].startswith("on")] == []
    assert seen.text.count(wanted) >= 7  # title, heading, type, remark, example and its answers, setting
    assert all(c.isprintable() or c in "\n\t\u200d\xa0" for c in page)
    figures = json.loads(re.findall(r'<script type="application/json" id="figures">(.*?)</script>', page)[0])
    assert html.escape(wanted) + "0 (+" in "".join(n["text"] for n in figures["panels"]["layout"]["annotations"])


@pytest.mark.parametrize("name", BREAKOUTS)
def test_hostile_name_is_plain_text_in_charts(study: StudySummary, name: str, tmp_path: Path) -> None:
    drawn = ElementTree.fromstring(curves_svg(study.curves, name))
    texts = [e.text for e in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert one_line(name) in texts
    assert {e.tag.rpartition("}")[2] for e in drawn.iter()}.isdisjoint({"script", "img", "foreignObject", "a"})
    tasks = tuple(replace(t, name=name + str(i)) for i, t in enumerate(study.curves.tasks))
    written = write_png(replace(study, pair=name, curves=replace(study.curves, tasks=tasks)), tmp_path, 30)
    assert [p.name for p in written] == ["curves.png", "plane.png", "tasks.png"]


def test_resolution_of_very_large_figures_is_reduced(
    study: StudySummary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A figure of a thousand tasks would exceed matplotlib's limit."""
    assert matplotlib_charts._MOST_PIXELS < 1 << 16
    monkeypatch.setattr(matplotlib_charts, "_MOST_PIXELS", 600)
    for path in write_png(study, tmp_path, 300):
        sides = [int.from_bytes(path.read_bytes()[at : at + 4], "big") for at in (16, 20)]
        assert 590 < max(sides) <= 600, path


def test_names_are_escaped_in_charts(study: StudySummary) -> None:
    figure = panels_figure(study.curves, [panel(t.name, [t]) for t in study.curves.tasks], 3)
    assert any(note["text"].startswith("a&lt;b&gt;task") for note in figure["layout"]["annotations"])


def test_labels_of_the_plane_do_not_overlap(study: StudySummary) -> None:
    tasks = (_series("t", "a", 1, 0.6, 0.6, 0.6, 0.7, 0.4),)
    curves = replace(study.curves, tasks=tasks, follow=_series("f", "", 2, 0.1, 0.1, 0.1, 0.5, 0.9))
    (trace,) = plane_figure(curves, [])["data"]
    assert trace["text"] == ["0", "", "", "0.75", "1"]
    assert trace["hovertext"] == ["0", "0.25", "0.5", "0.75", "1"]  # hovering shows all
    named = plane_figure(curves, readings(curves))["data"][0]["text"]
    assert "0.75, best few-shot" in named[3]


def test_documents_are_strict_json(study: StudySummary) -> None:
    never = _series("never", "", 4, 0.0, 0.0, 0.1, 0.1, 0.0)  # a difference relative to 0 is not finite
    document = to_document(replace(study, curves=replace(study.curves, follow=never)))
    assert "null" in json.dumps(document["differences"], allow_nan=False)


def test_figures_and_lm_eval_files_are_not_overwritten(tmp_path: Path) -> None:
    sweep_pair("demo", replace(OPTIONS, follow=""), tmp_path / "run")
    (tmp_path / "png").mkdir()
    (tmp_path / "png" / "curves.png").write_text("mine", "utf-8")
    with pytest.raises(OutputError, match=r"curves\.png: exists already"):
        publish(tmp_path / "run", ReportOptions(png=tmp_path / "png", lm_eval=tmp_path / "lm"))
    assert not (tmp_path / "run" / "report.html").exists()
    publish(tmp_path / "run", ReportOptions(png=tmp_path / "png", lm_eval=tmp_path / "lm", force=True))
    found = json.loads((tmp_path / "lm" / "results_demo_F16_0.5.json").read_text("utf-8"))
    assert set(found["n-shot"]) == set(found["results"]) == {"demo_kind", "demo_town"}
    with pytest.raises(OutputError, match=r"results_demo_F16_0\.json: exists already"):
        publish(tmp_path / "run", ReportOptions(lm_eval=tmp_path / "lm"))


def test_other_types_are_mentioned(tmp_path: Path) -> None:
    sweep_pair("demo", replace(OPTIONS, follow="", types=("F16", "Q8_0")), tmp_path)
    page, found = publish(tmp_path, ReportOptions(type="Q8_0"))
    assert found.type == "Q8_0"
    assert any("--type): F16" in remark for remark in found.remarks)
    assert "--type): F16" in page[0].read_text("utf-8")


def test_print_uses_static_charts_in_light_colours(browser: Any, page: Path) -> None:
    context = browser.new_context(color_scheme="dark")
    tab = context.new_page()
    tab.goto(page.as_uri())
    tab.wait_for_selector("#curves .xtick text")
    ink = "getComputedStyle(document.querySelector('.static text')).fill"
    assert tab.evaluate("getComputedStyle(document.querySelector('#curves .xtick text')).fill") == "rgb(230, 232, 235)"
    assert not tab.locator(".static").first.is_visible()
    tab.emulate_media(media="print")
    assert tab.evaluate(ink) == "rgb(28, 30, 33)"
    assert tab.evaluate("getComputedStyle(document.body).color") == "rgb(28, 30, 33)"
    assert not tab.locator("#curves").is_visible()
    assert tab.locator(".static svg").first.bounding_box()["height"] > 300
    tab.emulate_media(media="screen")
    tab.wait_for_timeout(300)
    assert tab.locator("#curves .main-svg").first.bounding_box()["height"] == 440
    context.close()


HEIGHTS = "[...document.querySelectorAll('.chart')].map((e) => e.getBoundingClientRect().height)"


DRAWN = (
    "[...document.querySelectorAll('.chart')].every("
    "(e) => e.querySelector('.main-svg')?.getBoundingClientRect().width === e.clientWidth)"
)


def settled_heights(tab: Any, width: int) -> list[float]:
    """Resize the window, wait until the charts are drawn at that width, and return their heights."""
    tab.set_viewport_size({"width": width, "height": 900})
    for _ in range(100):
        tab.wait_for_timeout(100)
        if tab.evaluate(DRAWN):
            break
    assert tab.evaluate(DRAWN), tab.evaluate(HEIGHTS)
    heights: list[float] = tab.evaluate(HEIGHTS)
    return heights


def test_charts_keep_their_height_on_resize(browser: Any, page: Path) -> None:
    tab = browser.new_page(viewport={"width": 900, "height": 900})
    tab.goto(page.as_uri())
    wide = settled_heights(tab, 900)
    assert len(wide) == 4
    assert wide[:2] == [442, 422]  # the heights of the figures and a border
    narrow = settled_heights(tab, 390)
    assert narrow[:2] == wide[:2]
    assert narrow[2] > wide[2]  # panels are stacked
    assert narrow[2:] == [60 + 170 * 2 + 2] * 2  # two panels in each chart
    for _ in range(3):
        assert settled_heights(tab, 844) == wide
        assert settled_heights(tab, 390) == narrow
    assert settled_heights(tab, 639) == narrow
    assert settled_heights(tab, 640) == wide
    for step in range(20):
        tab.set_viewport_size({"width": 700 + 13 * step, "height": 900 - 5 * step})
        tab.wait_for_timeout(20)
    assert settled_heights(tab, 900) == wide
    for _ in range(10):  # too fast to be drawn
        tab.set_viewport_size({"width": 400, "height": 800})
        tab.set_viewport_size({"width": 800, "height": 400})
    assert settled_heights(tab, 901) == wide
    tab.close()


def test_charts_are_drawn_when_opened_narrow_or_in_print(browser: Any, page: Path) -> None:
    tab = browser.new_page(viewport={"width": 390, "height": 800})
    tab.goto(page.as_uri())
    narrow = settled_heights(tab, 390)
    assert settled_heights(tab, 844)[:2] == narrow[:2] == [442, 422]
    tab.close()
    tab = browser.new_page(viewport={"width": 900, "height": 900})
    tab.emulate_media(media="print")
    tab.goto(page.as_uri())
    tab.wait_for_timeout(500)
    assert tab.locator(".static svg:visible").count() == 4
    tab.emulate_media(media="screen")
    assert settled_heights(tab, 900)[:2] == [442, 422]
    tab.close()


def test_zoom_is_kept_on_resize(browser: Any, page: Path) -> None:
    tab = browser.new_page(viewport={"width": 900, "height": 900})
    tab.goto(page.as_uri())
    settled_heights(tab, 900)
    tab.evaluate("Plotly.relayout('curves', {'xaxis.range': [0.2, 0.6]})")
    settled_heights(tab, 800)
    assert tab.evaluate("document.getElementById('curves').layout.xaxis.range") == [0.2, 0.6]
    tab.close()


LINKS = """[...document.querySelectorAll('*')].flatMap((e) => [...e.attributes]
  .filter((a) => /^(xlink:)?(href|src|srcset|(form)?action|data|poster|ping|style|clip-path|fill)$/.test(a.name))
  .map((a) => [e.localName, a.name, a.value]))"""


def test_page_has_no_external_links(browser: Any, page: Path) -> None:
    context = browser.new_context(viewport={"width": 900, "height": 900}, accept_downloads=True)
    context.add_init_script("window.opened = []; window.open = (...a) => { window.opened.push(a); return null; };")
    requests: list[str] = []
    context.on("request", lambda request: requests.append(request.url))
    tab = context.new_page()
    tab.goto(page.as_uri())
    settled_heights(tab, 900)
    buttons = tab.locator(".modebar-btn")
    titles = buttons.evaluate_all("(all) => all.map((e) => e.dataset.title)")
    assert titles == ["Download plot as a PNG", "Reset axes"] * 4
    for i in range(len(titles)):
        tab.locator(".chart").nth(i // 2).hover()
        if "Download" in titles[i]:
            with tab.expect_download() as waiting:
                buttons.nth(i).click()
            assert Path(waiting.value.path()).read_bytes().startswith(b"\x89PNG")
            assert waiting.value.suggested_filename.startswith("pa-lite-")
        else:
            buttons.nth(i).click()
    for config in tab.evaluate("[...document.querySelectorAll('.live')].map((e) => e._context)"):
        assert config["plotlyServerURL"] == ""
        assert [key for key in ("showLink", "showSendToCloud", "showEditInChartStudio") if config.get(key)] == []
        assert config["displaylogo"] is False
    assert tab.evaluate("window.opened") == []
    assert len(context.pages) == 1
    assert {url.partition(":")[0] for url in requests} <= {"file", "data", "blob"}
    found = tab.evaluate(LINKS)
    assert {name for _, name, _ in found} >= {"href", "style"}
    for tag, name, value in found:
        is_style = name in ("style", "clip-path", "fill")
        inner = re.findall(r"url\(['\"]?([^)]*?)['\"]?\)", value) if is_style else [value]
        # plotly's clip paths contain the page's address
        outside = [v for v in inner if not v.startswith(("#", "data:", "blob:", page.as_uri() + "#"))]
        assert outside == [], (tag, name, value)
    names = set(tab.evaluate("[...document.querySelectorAll('*')].map((e) => e.localName)"))
    assert names.isdisjoint({"form", "iframe", "object", "embed", "img", "base", "link", "video", "audio"})
    assert not re.search("share chart|plotly cloud|produced with", tab.locator("body").inner_text(), re.IGNORECASE)
    context.close()


def test_security_policy_allows_only_the_pages_scripts(browser: Any, page: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed.html"
    added = "<script>document.title = 'taken'</script><p onclick=\"document.title = 'taken'\" id=p>p</p></body>"
    changed.write_text(page.read_text("utf-8").replace("</body>", added), "utf-8")
    tab = browser.new_page()
    messages: list[str] = []
    tab.on("console", lambda m: messages.append(m.text))
    tab.goto(changed.as_uri())
    tab.wait_for_selector("#curves .scatterlayer")
    tab.locator("#p").click()
    assert tab.title() == "tiny between base and instruct"
    assert len([text for text in messages if "Content Security Policy" in text]) == 2
    fetched = "fetch('http://127.0.0.1:9/').then(() => 'sent', (e) => String(e))"
    assert "Failed to fetch" in tab.evaluate(fetched)
    assert any("connect" in text or "default-src" in text for text in messages[2:])
    tab.close()


def static_charts_are_shown(tab: Any) -> None:
    assert tab.locator(".static > svg:visible").count() == 4
    assert tab.locator(".live:visible").count() == 0
    heights = [tab.locator(".static > svg").nth(i).bounding_box()["height"] for i in range(4)]
    assert min(heights) > 100


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 390)])
def test_static_charts_are_shown_without_scripts(browser: Any, page: Path, scheme: str, width: int) -> None:
    viewport = {"width": width, "height": 900}
    context = browser.new_context(java_script_enabled=False, color_scheme=scheme, viewport=viewport)
    tab = context.new_page()
    requests: list[str] = []
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(page.as_uri())
    static_charts_are_shown(tab)
    assert len(requests) == 1
    assert tab.locator(".static > svg").first.bounding_box()["width"] <= width
    context.close()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Plotly.react(host", "Plotly.missing(host"),  # refused: the hash is not in the policy
        ("plotly.js v", "plotly.js  v"),  # plotly's script is refused
    ],
)
def test_static_charts_are_shown_when_a_script_is_refused(
    browser: Any, page: Path, tmp_path: Path, old: str, new: str
) -> None:
    text = page.read_text("utf-8")
    assert old in text
    broken = tmp_path / "broken.html"
    broken.write_text(text.replace(old, new, 1), "utf-8")
    tab = browser.new_page()
    tab.goto(broken.as_uri())
    tab.wait_for_timeout(500)
    static_charts_are_shown(tab)
    tab.close()


@pytest.mark.parametrize("react", ["() => { throw new Error('no') }", "() => Promise.reject(new Error('no'))"])
def test_static_charts_are_shown_when_drawing_fails(browser: Any, page: Path, react: str) -> None:
    tab = browser.new_page()
    messages: list[str] = []
    tab.on("console", lambda m: messages.append(m.text))
    tab.add_init_script(
        f"Object.defineProperty(window, 'Plotly', {{ get: () => ({{ react: {react} }}), set() {{}} }});"
    )
    tab.goto(page.as_uri())
    tab.wait_for_timeout(500)
    static_charts_are_shown(tab)
    assert "chart curves: Error: no" in messages
    tab.close()


def test_charts_have_text_alternatives(browser: Any, page: Path, study: StudySummary) -> None:
    tab = browser.new_page()
    tab.goto(page.as_uri())
    settled_heights(tab, 900)
    described = tab.locator(".static > svg").evaluate_all(
        "(all) => all.map((e) => [e.getAttribute('role'), ...e.getAttribute('aria-labelledby').split(' ')"
        ".map((id) => document.getElementById(id).textContent)])"
    )
    assert [row[:2] for row in described] == [
        ["img", "Along lam"], ["img", "The trade-off"], ["img", "By area"], ["img", "By task"],
    ]  # fmt: skip
    first = 100 * study.curves.tasks[0].values.mean(axis=1)
    assert f"a<b>task: {first[0]:.1f}% at lam 0, {first[-1]:.1f}% at lam 1" in described[3][2]
    assert "keep 95% of following" in described[0][2]
    live = tab.locator(".live svg.main-svg").evaluate_all(
        "(all) => all.map((e) => [e.closest('.live').id, e.getAttribute('role'), e.getAttribute('aria-label'),"
        " e.getAttribute('aria-hidden')])"
    )
    for name, row in zip(("curves", "plane", "areas", "panels"), described, strict=True):
        shown = [each for each in live if each[0] == name]
        assert shown[0] == [name, "img", f"{row[1]}. {row[2]}", None]
        assert all(each[3] == "true" for each in shown[1:])
    tab.get_by_role("link", name="table").click()
    assert tab.evaluate("location.hash") == "#numbers"
    tab.get_by_text("by area and task").click()
    cells = tab.locator("details table").first.locator("tbody tr").all_inner_texts()
    assert [row.split("\t")[0] for row in cells] == ["knowledge", "symbolic", "a<b>task", "second"]
    assert cells[2].split("\t")[1:] == [f"{value:.1f}" for value in first]
    tab.close()


def test_tab_key_moves_through_the_whole_page_and_back(browser: Any, page: Path) -> None:
    tab = browser.new_page(viewport={"width": 900, "height": 900})
    tab.goto(page.as_uri())
    settled_heights(tab, 900)
    where = "document.activeElement.closest('.live')?.id ?? (document.activeElement.textContent || '').slice(0, 30)"

    def walk(key: str, most: int) -> list[str]:
        seen: list[str] = []
        for _ in range(most):
            tab.keyboard.press(key)
            if tab.evaluate("document.activeElement === document.body"):
                break
            assert tab.evaluate("document.activeElement.getBoundingClientRect().height") > 0
            seen.append(tab.evaluate(where))
        return seen

    forward = walk("Tab", 40)
    assert forward[-1] == "readings.csv"
    assert {name: forward.count(name) for name in ("curves", "plane", "areas", "panels")} == dict.fromkeys(
        ("curves", "plane", "areas", "panels"), 2
    )
    assert walk("Shift+Tab", len(forward)) == forward[::-1]
    tab.locator(".modebar-btn").first.focus()
    assert (
        tab.evaluate("getComputedStyle(document.querySelector('.modebar')).opacity") == "1"
    )  # visible while it has the focus
    tab.close()


def test_touch_on_a_chart_scrolls_the_page(browser: Any, page: Path) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 900}, has_touch=True, is_mobile=True)
    tab = context.new_page()
    tab.goto(page.as_uri())
    settled_heights(tab, 390)
    tab.evaluate("document.querySelector('#curves').scrollIntoView()")
    tab.wait_for_timeout(200)
    box, before = tab.locator("#curves .nsewdrag").first.bounding_box(), tab.evaluate("window.scrollY")
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    session = context.new_cdp_session(tab)
    session.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    for step in range(10):
        points = [{"x": x, "y": y - 15 * (step + 1)}]
        session.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": points})
        tab.wait_for_timeout(16)
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    tab.wait_for_timeout(300)
    assert tab.evaluate("window.scrollY") >= before + 100
    assert tab.locator(".modebar-btn").count() == 0
    context.close()


def test_static_charts_have_unique_ids_and_bounded_size(study: StudySummary) -> None:
    lams = tuple(i / 10 for i in range(11))
    rates = [0.7 - 0.03 * i for i in range(11)]
    tasks = tuple(_series(f"task {i}", f"area {i % 4}", i, *rates) for i in range(21))
    page = to_html(replace(study, curves=Curves(lams=lams, tasks=tasks, follow=_series("f", "", 99, *rates[::-1]))))
    own = page.replace(get_plotlyjs(), "")
    ids = re.findall(r' id="([^"]*)"', own)
    assert len(ids) == len(set(ids)) > 100
    for target in re.findall(r'(?: href="#|url\(#)([^")]*)', own):
        assert target in ids, target
    static = "".join(re.findall(r"<svg .*?</svg>", own, re.DOTALL))
    assert 50_000 < len(static) < 700_000
    assert "<style" not in static
    assert "font-family" not in static


@pytest.mark.parametrize("lams", [(0.5,), (0.0, 1.0)])
@pytest.mark.parametrize("has_follow", [False, True])
def test_pages_of_small_studies_have_charts(
    browser: Any, study: StudySummary, tmp_path: Path, lams: tuple[float, ...], has_follow: bool
) -> None:
    task = _series("t", "a", 1, *(0.5 for _ in lams))
    follow = _series("f", "", 2, *(0.6 for _ in lams)) if has_follow else None
    path = tmp_path / "page.html"
    path.write_text(
        to_html(replace(study, curves=Curves(lams=lams, tasks=(task,), follow=follow), examples=())), "utf-8"
    )
    tab = browser.new_page(viewport={"width": 800, "height": 800})
    messages: list[str] = []
    tab.on("console", lambda m: messages.append(m.text))
    tab.goto(path.as_uri())
    assert len(settled_heights(tab, 810)) == 1 + has_follow
    assert messages == []
    text = tab.locator("body").inner_text()
    assert "best" not in text.replace("best guess", "")
    assert ("nothing to compare" if len(lams) == 1 else "no measurable difference") in text.lower()
    tab.close()
