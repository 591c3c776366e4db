"""Charts of samples: their points are what the samples say."""

from functools import partial
from pathlib import Path

import pytest
from evaluations import evaluation
from matplotlib.figure import Figure

from phfcli.core.evaluation.saved_evaluations import SavedEvaluation, SavedSample, load_evaluations
from phfcli.core.reporting.flow_charts import SERIES, look_of, one_look_a_run
from phfcli.core.reporting.score_charts import curves, passes, right_by_length, sample_panels


def result(name: str, samples: dict[str, list[SavedSample]]) -> SavedEvaluation:
    return SavedEvaluation(name, name, name, name, "m", {"bench": "aime"}, {}, Path(), samples)


def drawn(*pairs: tuple[int, int]) -> list[SavedSample]:
    """Samples of one problem: whether each is right, and its tokens."""
    return [SavedSample(i, "correct" if right else "wrong", "1", tokens) for i, (right, tokens) in enumerate(pairs)]


def test_pass_at_k_is_that_of_the_samples() -> None:
    own = result("a", {"p": drawn((1, 5), (0, 5), (0, 5)), "q": drawn((0, 5), (0, 5), (0, 5))})
    assert passes(own) == [(1, pytest.approx(1 / 6)), (2, pytest.approx(1 / 3)), (3, pytest.approx(1 / 2))]
    assert passes(result("a", {"p": drawn((1, 5))})) == []
    assert passes(result("a", {"p": drawn((1, 5), (1, 5)), "q": drawn((1, 5))})) == []


def test_short_right_and_long_wrong_samples_are_told_apart() -> None:
    pairs = [(int(tokens < 300), tokens) for tokens in range(0, 600, 10)]
    [points] = right_by_length([result("a", {"p": drawn(*pairs)})])
    assert [share for _, share, _ in points] == [1, 1, 1, 0, 0, 0]
    assert [count for _, _, count in points] == [10] * 6
    assert [x for x, _, _ in points] == [45, 145, 245, 345, 445, 545]


def test_the_panels_draw_what_there_is(tmp_path: Path) -> None:
    evaluation(tmp_path / "same", {"p": [1, 0, 1, 1]})  # all of one length
    assert list(sample_panels(load_evaluations([str(tmp_path / "same")], []))) == ["pass at k"]
    assert sample_panels([]) == {}
    own = result("a", {"p": drawn(*[(i % 3 > 0, 10 * i) for i in range(40)])})
    panels = sample_panels([own, result("b", own.samples)])
    assert list(panels) == ["pass at k", "right by length", "lengths"]
    for panel in panels.values():
        axes = Figure().subplots()
        panel(axes)
        told = [artist.get_gid() for artist in axes.lines if artist.get_gid()]
        assert len(told) >= 4
        assert all(str(text).startswith("value:") for text in told)


def test_a_run_looks_the_same_in_every_chart_of_a_page() -> None:
    """The base has samples and no curve; where a chart leaves it out, the others keep their colours."""
    own = result("opsd", {"p": drawn(*[(i % 3 > 0, 10 * i) for i in range(40)])})
    panel = sample_panels([result("base", own.samples), own])["pass at k"]
    looks = []
    with one_look_a_run(["base", "opsd"]):
        for draw in (panel, partial(curves, curves={"opsd": [(1, 0.5), (2, 0.4)]}, name="loss")):
            axes = Figure().subplots()
            draw(axes)
            [line] = [line for line in axes.lines if line.get_label() == "opsd"]
            looks.append((line.get_color(), line.get_linestyle()))
    assert looks == [(SERIES[1], "--")] * 2
    assert look_of("opsd", 0).colour == SERIES[0]  # on no page: by its place in the chart
