"""Turns a chart into SVG that is embedded in a page.

Text stays text, colours follow the colour scheme of the page, and marks show their values as tooltips. The SVG has no
style attributes, because the page's content security policy allows none.
"""

import io
import re
from collections.abc import Callable
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phfcli.core.reporting.flow_charts import INK, LINE, SERIES

_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_COLOURS = {"#000000": "currentColor", INK: "currentColor", LINE: "var(--line)", "#ffffff": "none"} | {
    colour: f"var(--series-{index})" for index, colour in enumerate(SERIES)
}
_LEFT_OUT = ("font-family", "font-style", "font-weight", "font-stretch", "font-variant")  # which the page sets
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def inline_svg(panel: Callable[[Axes], None], label: str, name: str, size: tuple[float, float] = (4.9, 3.7)) -> str:
    """The panel as an element of a page.

    Args:
        label: the text for screen readers.
        name: a name that no other chart of the page has; it makes the ids unique.
        size: in inches; the page may draw the chart smaller.
    """
    figure = Figure(figsize=size, layout="constrained")
    out = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "phf", "text.parse_math": False}):
        panel(figure.subplots())
        figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    root = ElementTree.fromstring(out.getvalue())
    for part in (f"{_SVG}metadata", f"{_SVG}defs"):  # with matplotlib's metadata and style
        child = root.find(part)
        if child is not None:
            root.remove(child)
    _adapt(root, name)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label, "stroke-linejoin": "round"}
    return ElementTree.tostring(root, encoding="unicode")


def _adapt(element: Element, name: str) -> None:
    """Adapts an element: plain tags, attributes in the place of styles, the page's colours, unique ids, tooltips."""
    element.tag = element.tag.removeprefix(_SVG)
    attributes = element.attrib
    for style in filter(None, attributes.pop("style", "").split(";")):
        key, value = (part.strip() for part in style.split(":", 1))
        if key not in _LEFT_OUT:
            attributes[key] = _COLOURS.get(value, value)
    identifier = attributes.pop("id", "")
    if identifier.startswith("value:"):
        attributes["class"] = "value"
        title = Element("title")
        title.text = identifier.removeprefix("value:")
        element.insert(0, title)
    elif element.tag not in ("g", "svg", "title") and identifier:
        attributes["id"] = f"{name}-{identifier}"
    if link := attributes.pop(_LINK, ""):
        attributes["href"] = f"#{name}-{link.removeprefix('#')}"
    for key, value in list(attributes.items()):
        attributes[key] = _REFERENCE.sub(rf"url(#{name}-\1)", value)
    if "d" in attributes:
        attributes["d"] = _shorter(attributes["d"])
    for child in element:
        child.tail = None
        _adapt(child, name)
    if not (element.text or "").strip():
        element.text = None


def _shorter(path: str) -> str:
    """The data of a path with one decimal, on one line."""
    return re.sub(r"-?\d+\.\d+", lambda match: f"{float(match[0]):.1f}".removesuffix(".0"), " ".join(path.split()))
