"""The pictures of a study can be read, however many systems it has."""

from itertools import pairwise
from pathlib import Path

import pytest

from phfcli.core.reporting.figures import figure_of
from phfcli.core.studies.charts import panel_size, panels
from phfcli.core.studies.plan import load_study
from phfcli.core.studies.results import results_of

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["objectives", "smollm2"])
def test_no_name_is_cut_or_lies_over_another(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(ROOT)  # where the records of the study are
    study = load_study(Path("studies") / f"{name}.yaml")
    results = results_of(study)
    figure = figure_of(panels(study, results), size=panel_size(results))
    figure.draw_without_rendering()
    for axes in figure.axes:
        named = axes.xaxis.label.get_window_extent()
        assert named.x0 >= 0
        assert named.x1 <= figure.bbox.x1
        boxes = [label.get_window_extent() for label in axes.get_yticklabels() if label.get_text()]
        ordered = sorted(boxes, key=lambda box: box.y0)
        assert all(below.y1 <= above.y0 for below, above in pairwise(ordered))
        legend = axes.get_legend()
        if legend is not None:
            beside, own = legend.get_window_extent(), axes.get_window_extent()
            assert beside.y0 >= own.y0
            assert beside.x1 <= figure.bbox.x1
            assert beside.x0 >= own.x1  # no line runs through it
