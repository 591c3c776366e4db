"""The pictures of a study can be read, however many systems it has."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from matplotlib.lines import Line2D

from phfcli.core.analysis.differences import paired_difference, seed_difference
from phfcli.core.studies.charts import pictures
from phfcli.core.studies.results import Difference, results_of
from phfcli.core.studies.study_file import load_study

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["methods", "objectives", "smollm2"])
def test_no_name_is_cut_or_lies_over_another(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(ROOT)  # where the records of the study are
    study = load_study(Path("studies") / f"{name}.yaml")
    for figure in pictures(study, results_of(study)).values():
        figure.draw_without_rendering()
        [axes] = figure.axes
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


def test_pictures_of_one_kind_have_one_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    study = load_study(Path("studies") / "methods.yaml")
    drawn = {name: figure.axes[0] for name, figure in pictures(study, results_of(study)).items()}
    kinds = ("scores", "differences", "energy")
    assert list(drawn) == [f"{kind}-{model}" for kind in kinds for model in ("embedded", "firm-habit")]
    for kind in kinds:
        one, other = drawn[f"{kind}-embedded"], drawn[f"{kind}-firm-habit"]
        limits = [axes.get_xlim() if kind == "differences" else axes.get_ylim() for axes in (one, other)]
        assert limits[0] == limits[1]
        assert [axes.get_title(loc="left").split(":")[0].split(" ")[0] for axes in (one, other)] == list(study.models)


@pytest.mark.parametrize("name", ["methods", "smollm2"])
def test_a_system_has_one_look_and_no_two_have_the_same(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(ROOT)
    study = load_study(Path("studies") / f"{name}.yaml")
    looks: dict[str, set[tuple[Any, ...]]] = {}
    for figure in pictures(study, results_of(study)).values():
        for handle, label in zip(*figure.axes[0].get_legend_handles_labels(), strict=True):
            line = handle if isinstance(handle, Line2D) else handle[0]  # of an error bar
            if label != "base model":
                look = line.get_color(), line.get_marker(), line.get_linestyle()
                looks.setdefault(label.partition(" (")[0], set()).add(look)
    assert len(looks) == {"methods": 9, "smollm2": 14}[name]
    assert all(len(own) == 1 for own in looks.values())
    assert len(set.union(*looks.values())) == len(looks)


def test_the_interval_of_two_seeds_does_not_set_the_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    study = load_study(Path("studies") / "smollm2.yaml")
    results = results_of(study)
    [bench, *_] = results.benches("smollm2-135m")
    first, second, *_ = [row for row in results.of("smollm2-135m", bench) if row.difference is not None]
    problems = paired_difference({"a": [1.0], "b": [0.0]}, {"a": [0.0], "b": [0.0]})
    two, four = seed_difference([0.01, 0.03]), seed_difference([0.01, 0.02, 0.02, 0.03])
    rows = [
        replace(first, difference=Difference(two, problems)),
        replace(second, difference=Difference(four, problems)),
    ]
    drawn = pictures(study, replace(results, rows=rows))
    [differences] = drawn["differences-smollm2-135m"].axes
    left, right = differences.get_xlim()
    assert left < 0 < right  # the sign of every difference is seen
    assert two.low is not None
    assert two.high is not None
    assert four.low is not None
    assert four.high is not None
    assert 100 * two.low < left <= 100 * four.low
    assert 100 * four.high <= right < 100 * two.high
    arrows = {line.get_marker(): line.get_data() for line in differences.lines if line.get_marker() in ("<", ">")}
    assert {marker: float(x[0]) for marker, (x, _) in arrows.items()} == {"<": left, ">": right}
