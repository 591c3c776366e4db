"""Panels as parts of a page: its colours, its text, its ids, and nothing that its policy would refuse."""

import re
from xml.etree import ElementTree

import pytest
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, to_hex
from matplotlib.patches import Rectangle

from phfcli.core.reporting.flow_charts import BLUE, BOTH_WAYS, INK, LINE, SERIES, SHADES, set_tooltip
from phfcli.core.reporting.inline_svg import inline_svg


def drawn(axes: Axes) -> None:
    (line,) = axes.plot([0, 1], [0, 1], color=BLUE, marker="o", label="a < b")
    set_tooltip(line, 'a "quoted" & <b>value</b>')
    set_tooltip(axes.add_patch(Rectangle((0, 0), 1, 1, facecolor="#123456")), "cell")
    axes.set_title("<script>1</script>")
    axes.legend()


def test_marks_tell_their_values_and_text_stays_text() -> None:
    root = ElementTree.fromstring(inline_svg(drawn, 'the "label"', "x"))
    assert root.attrib["aria-label"] == 'the "label"'
    assert [node.text for node in root.iter("title")] == ["cell", 'a "quoted" & <b>value</b>']
    assert "<script>1</script>" in [node.text for node in root.iter("text")]
    assert "a < b" in [node.text for node in root.iter("text")]


def test_colours_are_the_pages_own_but_those_of_maps() -> None:
    text = inline_svg(drawn, "", "x")
    assert 'fill="var(--series-0)"' in text
    assert 'fill="#123456"' in text
    assert not {BLUE, INK, LINE, "#000000"} & set(re.findall("#[0-9a-f]{6}", text))


@pytest.mark.parametrize("scale", [SHADES, BOTH_WAYS])
def test_no_shade_of_a_map_is_a_colour_that_the_page_exchanges(scale: Colormap) -> None:
    shades = {to_hex(scale(place)) for place in range(scale.N)}
    assert len(shades) == scale.N < 50
    assert not shades & {*SERIES, INK, LINE, "#000000", "#ffffff"}


def test_two_pictures_share_no_id_and_neither_brings_a_style_or_an_image() -> None:
    pictures = [inline_svg(drawn, "", name) for name in ("x", "y")]
    ids = [set(re.findall(r' id="([^"]+)"', picture)) for picture in pictures]
    assert ids[0]
    assert not ids[0] & ids[1]
    for picture, own in zip(pictures, ids, strict=True):
        used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', picture))
        assert {a or b for a, b in used} <= own
        assert not re.search(r"style=|<style|<image|xlink|http", picture)


@pytest.mark.parametrize("name", ["$x^$", "100 %", "a_b^c\\d"])
def test_any_name_can_be_drawn(name: str) -> None:
    def panel(axes: Axes) -> None:
        set_tooltip(axes.plot([0, 1], [0, 1])[0], name)
        axes.set_title(name)

    shown = [node.text for node in ElementTree.fromstring(inline_svg(panel, name, "x")).iter("text")]
    assert name in shown
