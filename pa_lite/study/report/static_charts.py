"""A study's charts as inline SVG with text alternatives, for a page without scripts and for printing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from markupsafe import Markup

from pa_lite.sanitize import one_line
from pa_lite.statistics import Mean
from pa_lite.study.curves import Curves, averages
from pa_lite.study.measures import FEW_SHOT, Measure
from pa_lite.study.report.matplotlib_charts import INK, PAPER, Panels, page_svgs
from pa_lite.study.report.shapes import charts, plane
from pa_lite.study.summary import Reading, labels

_COLOURS = {INK: "currentColor", PAPER: "var(--paper)"}
_NAMES = {"curves": "Along lam", "plane": "The trade-off", "areas": "By area", "panels": "By task"}


def static_charts(curves: Curves, found: Sequence[Reading], panels: Mapping[str, Panels]) -> dict[str, Markup]:
    """Return every chart of the page (see `page_svgs`) as an `svg` element with the page's colours and width."""
    described = _descriptions(curves, found, panels)
    drawn = page_svgs(curves, found, panels)
    return {name: _element(svg, name, _NAMES[name], one_line(described[name])) for name, svg in drawn.items()}


def _element(svg: str, name: str, title: str, description: str) -> Markup:
    """Convert an SVG file to an HTML element: unique ids, the page's fonts and colours, a title and a description."""
    root = ElementTree.fromstring(svg)
    _strip(root)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
        attributes = element.attrib
        if "id" in attributes:
            attributes["id"] = f"{name}-{attributes['id']}"
        if attributes.get("href", "").startswith("#"):
            attributes["href"] = f"#{name}-{attributes['href'][1:]}"
        if "clip-path" in attributes:
            attributes["clip-path"] = attributes["clip-path"].replace("url(#", f"url(#{name}-")
        if "style" in attributes:
            attributes["style"] = _style(attributes["style"])
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    names = [f"{name}-title", f"{name}-description"]
    root.attrib.update({"role": "img", "aria-labelledby": " ".join(names)})
    for i, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(tag, {"id": names[i]})
        element.text = text
        root.insert(i, element)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _strip(root: ElementTree.Element) -> None:
    """Remove metadata, and style sheets, which would apply to the whole page."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)


def _style(style: str) -> str:
    """Replace the drawing's ink and paper by the page's colours, and remove the font, which the page sets."""
    kept = [part.strip() for part in style.split(";") if not part.strip().startswith("font-family")]
    pairs = (part.partition(":") for part in kept if part)
    return "; ".join(f"{key}: {_COLOURS.get(value.strip(), value.strip())}" for key, _, value in pairs)


def _descriptions(curves: Curves, found: Sequence[Reading], panels: Mapping[str, Panels]) -> dict[str, str]:
    """Return each chart in words: what is drawn, its values at the ends and range, and what is marked."""
    order = sorted(range(len(curves.lams)), key=lambda i: curves.lams[i])
    lams = [curves.lams[i] for i in order]

    def course(name: str, estimates: Sequence[Mean], measure: Measure = FEW_SHOT) -> str:
        values = [estimates[i].value for i in order]
        text = f"{name}: {measure.told(values[0])} at lam {lams[0]:g}"
        if len(lams) > 1:
            text += f", {measure.told(values[-1])} at lam {lams[-1]:g}, between "
            text += f"{measure.told(min(values))} and {measure.told(max(values))}"
        return text + "."

    drawn = [course(s.measure.label.capitalize(), s.estimates, s.measure) for s in averages(curves)]
    drawn += [f"Marked: {', '.join(names)} at lam {lam:g}." for lam, names in labels(found).items()]
    axes = ", and of ".join(group[0].measure.axis for group in charts(curves))
    out = {"curves": " ".join([f"Line chart of {axes} against lam.", *drawn])}
    if points := plane(curves, found):
        best = ", ".join(f"{p.lam:g}" for p in points if p.is_optimal)
        skill = curves.skill_measure.label
        out["plane"] = (
            f"{skill[0].upper()}{skill[1:]} against {curves.compliance_measure.label}: a point for each lam, joined in "
            "their order." + (f" Pareto-optimal: lam {best}." if best else "")
        )
    for name, (each, _) in panels.items():
        courses = " ".join(course(panel.name, panel.shown.estimates) for panel in each)
        out[name] = f"{len(each)} line charts of few-shot accuracy against lam. {courses}"
    return out
