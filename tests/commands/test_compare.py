"""phf compare, on a run that phf train and phf eval have made."""

import csv
import json
import math
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evaluations import SOME, evaluation
from refusals import refused

Phf = Callable[..., Any]


def test_two_evaluations_side_by_side(phf: Phf, run: Path) -> None:
    for target in ("embedded", run):
        phf("eval", target, "--limit", 6, "--n", 2, "--quiet", "--engine", "transformers")
    done = phf("compare", "runs/embedded", run, "--json")
    rows, (pair,) = done.json["rows"], done.json["pairs"]
    assert [row["name"] for row in rows] == ["embedded", "run"]
    assert pair["difference"] == pytest.approx(rows[1]["average"] - rows[0]["average"])
    assert {"difference", "stderr", "low", "high", "p_value", "problems"} <= pair.keys()
    assert pair["low"] <= pair["difference"] <= pair["high"]
    assert pair["p_holm"] == pair["p_value"]
    assert done.json["unequal"] == []
    done = phf("compare", "runs/embedded", run, "--plot", "compare.svg", "--markdown", "compare.md")
    assert done.code == 0
    assert "run - embedded" in done.out
    assert (run.parent / "compare.md").read_text().startswith("**Average@n in percent")
    assert "<svg" in (run.parent / "compare.svg").read_text()


@pytest.mark.parametrize(("name", "start"), [("x.png", b"\x89PNG"), ("x.svg", b"<?xml"), ("x.pdf", b"%PDF")])
def test_the_ending_of_a_pictures_name_is_its_format(phf: Phf, tmp_path: Path, name: str, start: bytes) -> None:
    for place in ("a", "b"):
        evaluation(tmp_path / place, SOME)
    assert phf("compare", "a", "b", "--plot", name).code == 0
    assert (tmp_path / name).read_bytes().startswith(start)


def test_copies_of_a_bench_that_differ_are_not_compared(phf: Phf, tmp_path: Path) -> None:
    evaluation(tmp_path / "a", SOME)
    evaluation(tmp_path / "b", SOME, bench_sha256="c")
    done = phf("compare", "a", "b", "--unequal")
    assert done.code == 2
    assert "differ in rows" in done.err


def test_other_sampling_or_prompts_are_refused_unless_asked_for(phf: Phf, tmp_path: Path) -> None:
    evaluation(tmp_path / "a", SOME)
    evaluation(tmp_path / "b", SOME, sampling={"temperature": 0.6, "top_p": 0.95, "top_k": 0, "max_new_tokens": 100})
    done = phf("compare", "a", "b")
    assert done.code == 2
    assert "aime: sampling temperature 1.0 / 0.6 (a and b): evaluations that differ in it do not compare" in done.err
    assert phf("compare", "a", "b", "--unequal", "--json").json["unequal"] == [
        "aime: sampling temperature 1.0 / 0.6 (a and b)"
    ]


def test_other_n_and_engines_are_listed(phf: Phf, tmp_path: Path) -> None:
    evaluation(tmp_path / "a", SOME)
    evaluation(tmp_path / "b", {"p": [1], "q": [0], "r": [1]}, engine="vllm")
    done = phf("compare", "a", "b")
    assert done.code == 0
    assert "aime: n 2 / 1 (a and b)" in done.err
    assert "aime: engine transformers / vllm (a and b)" in done.err


def test_seeds_of_a_method_are_pooled(phf: Phf, tmp_path: Path) -> None:
    for name, objective, seed, rows in (
        ("o0", "opsd", 0, {"p": [1, 0], "q": [0, 0], "r": [1, 1]}),
        ("o1", "opsd", 1, {"p": [1, 1], "q": [0, 1], "r": [1, 1]}),
        ("h0", "phf", 0, {"p": [1, 1], "q": [1, 1], "r": [0, 0]}),
    ):
        evaluation(tmp_path / name, rows, config={"objective": objective, "seed": seed, "output_dir": name})
    done = phf("compare", "o0", "o1", "h0", "--json").json
    assert [(arm["name"], arm["runs"]) for arm in done["arms"]] == [("opsd", ["o0", "o1"]), ("h0", ["h0"])]
    [pair] = done["pairs"]
    assert (pair["a"], pair["b"], pair["problems"]) == ("opsd", "h0", 3)
    assert pair["difference"] == pytest.approx((0.25 + 0.75 - 1) / 3)
    assert done["arms"][0]["benches"]["aime"]["seed_spread"] == pytest.approx(math.sqrt(2) * (5 / 6 - 1 / 2) / 2)
    assert [entry["problem"] for entry in pair["gained"]] == ["q"]
    [lost] = pair["lost"]
    assert (lost["problem"], lost["a"], lost["b"]) == ("r", 1, 0)
    assert (lost["sample_a"], lost["sample_b"]) == (
        "o0/evals/step-000100/aime-n2/samples.html#r/0",
        "h0/evals/step-000100/aime-n2/samples.html#r/0",
    )


def test_runs_that_differ_in_more_than_their_seed_are_not_pooled(phf: Phf, tmp_path: Path) -> None:
    for name, alpha in (("a", 0.05), ("b", 0.5)):
        config = {"objective": "phf", "seed": 0, "flow": {"alpha": alpha}}
        evaluation(tmp_path / name, SOME, config=config)
    assert [arm["name"] for arm in phf("compare", "a", "b", "--json").json["arms"]] == ["a", "b"]
    done = phf("compare", "x=a", "x=b", "--json").json  # the user says that they are one method
    assert [(arm["name"], len(arm["runs"])) for arm in done["arms"]] == [("x", 2)]


def test_the_papers_tables(phf: Phf, tmp_path: Path) -> None:
    for model in ("m1", "m2"):
        for method, shift in (("opsd", 0), ("phf", 1)):
            for bench in ("aime", "hmmt"):
                rows = {f"p{i}": [1, int(i % 2 == shift)] for i in range(5)}
                evaluation(tmp_path / model / method, rows, bench=bench, model={"name": model})
    paths = [f"{model}/{method}" for model in ("m1", "m2") for method in ("opsd", "phf")]
    outputs = ("--markdown", "t.md", "--latex", "t.tex", "--csv", "t.csv", "--plot", "t.svg")
    done = phf("compare", *paths, "--view", "methods", *outputs)
    assert done.code == 0
    lines = (tmp_path / "t.md").read_text().splitlines()
    assert lines[2] == "| model | method | seeds | aime | hmmt | Average |"
    assert lines[4].startswith("| m1 | opsd | 1 | 80.0 ± 12.2 | 80.0 ± 12.2 | 80.0 ± 8.7 |")
    assert [line.split(" & ")[1] for line in (tmp_path / "t.tex").read_text().splitlines()[7:11]] == [
        "opsd",
        "phf",
        "opsd",
        "phf",
    ]
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [row["bench"] for row in rows[:3]] == ["aime", "hmmt", "average"]
    assert float(rows[0]["average"]) == pytest.approx(0.8)
    pairs = list(csv.DictReader((tmp_path / "t-pairs.csv").read_text().splitlines()))
    assert [(row["bench"], row["a"], row["b"]) for row in pairs] == [  # m1's methods, then m2's
        (bench, "opsd", "phf") for _ in range(2) for bench in ("aime", "hmmt", "average")
    ]
    assert "<svg" in (tmp_path / "t.svg").read_text()
    done = phf("compare", *paths, "--view", "ablations", *outputs)
    assert (tmp_path / "t.md").read_text().splitlines()[2] == "| variant | m1 | m2 |"


def test_the_papers_figure_of_checkpoints(phf: Phf, tmp_path: Path) -> None:
    config = {"objective": "phf", "seed": 0}
    evaluation(tmp_path / "a", {"p": [0, 0], "q": [0, 1]}, step=50)
    evaluation(tmp_path / "a", {"p": [1, 1], "q": [0, 1]}, step=100, config=config)
    done = phf("compare", "a", "--view", "dynamics", "--json", "--plot", "d.png").json
    points = [(row["step"], row["average"], row["seeds"]) for row in done["view"]["records"]]
    assert points == [(50, 0.25, 1), (100, 0.75, 1)]
    assert done["pairs"] == []
    assert [row["step"] for row in phf("compare", "a", "--json").json["rows"]] == [100]


def test_a_checkpoint_is_compared_by_its_own_evaluation(phf: Phf, tmp_path: Path) -> None:
    evaluation(tmp_path / "a", {"p": [0, 0], "q": [0, 1]}, step=50)
    evaluation(tmp_path / "a", {"p": [1, 1], "q": [0, 1]}, config={"objective": "phf", "seed": 0})
    checkpoint = tmp_path / "a" / "checkpoints" / "step-000050"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer.json").write_text('{"step": 50, "model": "m", "schedule": {}}')
    done = phf("compare", f"early={checkpoint}", "a", "--json").json
    assert [(row["name"], row["step"]) for row in done["rows"]] == [("early", 50), ("a", 100)]
    done = phf("compare", checkpoint, "a", "--json").json  # no seeds of one method, but two arms
    assert [(pair["a"], pair["b"]) for pair in done["pairs"]] == [("a", "a (100)")]
    assert len(done["arms"]) == 2


def test_of_several_evaluations_the_one_with_the_most_samples_counts(phf: Phf, tmp_path: Path) -> None:
    evaluation(tmp_path / "a", {"p": [0], "q": [0]}, config={"objective": "phf", "seed": 0})
    evaluation(tmp_path / "a", SOME)
    (row,) = phf("compare", "a", "--json").json["rows"]
    assert row["n"] == 2


def test_runs_of_all_weights_count_for_the_model_they_began_with(phf: Phf, tmp_path: Path) -> None:
    evaluation(tmp_path / "base", SOME, step=None, adapter_sha256=None)
    own = {"model": {"name": "runs/full/checkpoints/step-000100"}, "adapter_sha256": None}
    evaluation(tmp_path / "full", SOME, config={"model": "some/model", "objective": "phf", "seed": 0}, **own)
    done = phf("compare", "base", "full", "--json").json
    assert [row["model"] for row in done["rows"]] == ["model", "model"]
    assert len(done["pairs"]) == 1


def test_summaries_in_one_folder_are_no_seeds(phf: Phf, tmp_path: Path) -> None:
    for name, score in (("theirs", 1), ("others", 0)):
        told = {"bench": "aime", "target": name, "average": score, "scores": {"p": [score], "q": [score]}}
        (tmp_path / f"{name}.json").write_text(json.dumps(told))
    done = phf("compare", "theirs.json", "others.json", "--json").json
    assert [pair["difference"] for pair in done["pairs"]] == [-1.0]
    (tmp_path / "theirs.json").write_text(json.dumps(told | {"scores": {"p": 1}}))
    done = phf("compare", "theirs.json")
    assert (done.code, len(done.err.splitlines())) == (2, 1)


def test_a_summary_without_settings_hides_no_difference_of_the_others(phf: Phf, tmp_path: Path) -> None:
    told = {"bench": "aime", "target": "theirs", "average": 1, "scores": {"p": [1], "q": [1]}}
    (tmp_path / "theirs.json").write_text(json.dumps(told))
    evaluation(tmp_path / "a", SOME)
    evaluation(tmp_path / "b", SOME, sampling={"temperature": 0.6, "top_p": 0.95, "top_k": 0, "max_new_tokens": 100})
    done = phf("compare", "theirs.json", "a", "b")
    assert done.code == 2
    assert "(a and b): evaluations that differ in it do not compare" in done.err


def test_a_summary_from_elsewhere(phf: Phf, tmp_path: Path) -> None:
    evaluation(tmp_path / "a", SOME)
    told = {"bench": "aime", "target": "theirs", "average": 2 / 3}
    (tmp_path / "alone.json").write_text(json.dumps(told))
    done = phf("compare", "a", "alone.json", "--json")
    assert done.json["rows"][1]["average"] == 2 / 3
    assert done.json["pairs"] == []  # nothing is known by problem
    (tmp_path / "scored.json").write_text(json.dumps(told | {"scores": {"p": [1], "q": [0], "r": [1]}}))
    done = phf("compare", "a", "scored.json", "--json")
    assert done.json["pairs"][0]["problems"] == 3
    assert "aime: sampling of theirs is not known" in done.json["unequal"]


def test_the_problems_that_changed_are_named(phf: Phf, tmp_path: Path) -> None:
    evaluation(tmp_path / "a", {"p": [0, 0], "q": [1, 1]})
    evaluation(tmp_path / "b", {"p": [1, 1], "q": [1, 1]})
    out = phf("compare", "a", "b", "--changed", "3").out
    assert "aime, b - a: gained 1\n  p  0 to 100 %  a/evals/step-000100/aime-n2/samples.html#p/0  b/evals" in out
    assert "lost 0" in out


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{}", "bench: field required; expected a summary of an evaluation"),
        ("[]", "expected an object"),
        ("{", "not readable as JSON"),
    ],
)
def test_what_is_no_summary_is_refused(phf: Phf, tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "x.json").write_text(content)
    done = phf("compare", "x.json")
    assert done.code == 2
    assert told in done.err


def test_a_run_without_evaluations(phf: Phf, run: Path) -> None:
    shutil.rmtree(run / "evals")
    done = phf("compare", run)
    assert done.code == 2
    assert f"run `phf eval {run}` first" in done.err


def test_a_folder_that_no_training_made_is_told_how_it_is_evaluated(phf: Phf, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    done = phf("compare", "base")
    assert done.code == 2
    assert "`phf eval` with output_dir=base evaluates a model into it" in done.err


def test_the_same_evaluation_twice_is_refused(phf: Phf, tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "a", SOME)
    assert phf("compare", "a", "a").err == "phf: a: is the same evaluation of aime as a; give each of them once\n"
    assert "B=a: is the same evaluation of aime as A=a" in phf("compare", "A=a", "B=a").err
    assert "as a; give each" in phf("compare", "a", folder).err
    assert "as a; give each" in phf("report", "a", "a").err


def test_other_numbers_of_samples_are_told_with_what_they_do(phf: Phf, tmp_path: Path) -> None:
    evaluation(tmp_path / "a", SOME)
    evaluation(tmp_path / "b", {problem: drawn[:1] for problem, drawn in SOME.items()})
    done = phf("compare", "a", "b")
    assert done.code == 0
    assert "(a and b): each average is over its own samples, and the one of fewer is less certain" in done.err
    assert "evaluate both with the same n" in done.err


def test_each_interval_says_which_question_it_answers(phf: Phf, tmp_path: Path) -> None:
    for objective, right in (("opsd", 0), ("phf", 1)):
        for seed in (0, 1):
            correct = {f"p{i}": [1, right if i else seed] for i in range(30)}
            evaluation(tmp_path / f"{objective}{seed}", correct, config={"objective": objective, "seed": seed})
    runs = ("opsd0", "opsd1", "phf0", "phf1")
    done = phf("compare", *runs, "--markdown", "c.md", "--csv", "c.csv")
    text = (tmp_path / "c.md").read_text()
    assert "Over seeds: would other trainings differ? Over problems: would these, on other problems?" in text
    assert "| 2 seeds |" in text
    assert "| 30 problems | 0.0001 | - |" in text
    assert "surer" not in done.out
    pairs = list(csv.DictReader((tmp_path / "c-pairs.csv").read_text().splitlines()))
    assert pairs[0]["unit"] == "seeds"
    assert pairs[0]["p_value_over_problems"] != pairs[0]["p_value"]
    assert phf("compare", *runs, "--unit", "problems", "--json").json["pairs"][0]["unit"] == "problems"
    assert "--unit: 'runs' is unknown" in phf("compare", *runs, "--unit", "runs").err
    assert phf("compare", "opsd0", "phf0", "phf1", "--unit", "seeds").code == 2


@pytest.mark.slow
def test_the_samples_of_two_runs_stand_on_one_page(phf: Phf, tmp_path: Path) -> None:
    sampled = ("--limit", 2, "--n", 2, "--quiet", "--engine", "transformers")
    for place, bench in (("a", "embedded,embedded-dev"), ("b", "embedded,embedded-dev"), ("c", "embedded")):
        phf("eval", "embedded", "--output-dir", place, "--bench", bench, *sampled)
    done = phf("compare", "a", "<b>=b", "--bench", "embedded", "--samples", "both.html")
    assert done.code == 0, done.err
    assert "samples    both.html" in done.out
    page = (tmp_path / "both.html").read_text()
    assert "<title>embedded: samples of a and &lt;b&gt;</title>" in page
    assert re.search(r"<p class=.difference.>&lt;b&gt; - a: [+-][\d.]+ points \(95% interval .* over problems", page)
    [heads] = [json.loads(text) for text in re.findall('id="problems">(.*?)</script>', page)]
    assert [(head["id"], [len(run["samples"]) for run in head["runs"]]) for head in heads] == [
        ("eval-0001", [2, 2]),
        ("eval-0002", [2, 2]),
    ]
    assert heads[0]["problem"][0].startswith("Start with")
    two = "samples: the page shows two evaluations of one benchmark; choose them by path and bench. Given: a on"
    refused(phf("compare", "a", "b", "c", "--bench", "embedded", "--samples", "x.html", "--quiet"), two)
    refused(phf("compare", "a", "b", "--samples", "x.html", "--quiet"), two)
    refused(phf("compare", "nowhere", "--samples", "x.pdf"), "--samples x.pdf: use a name that ends in .html")
    (tmp_path / "a" / "evals" / "embedded-n2" / "samples.parquet").unlink()
    refused(
        phf("compare", "a", "c", "--bench", "embedded", "--samples", "x.html", "--quiet"), "samples.parquet is missing"
    )
    assert not (tmp_path / "x.html").exists()


def test_a_chosen_checkpoint_is_told_with_the_score_that_it_has_without_the_choice(phf: Phf, tmp_path: Path) -> None:
    """Three checkpoints of one quality: what the best one has above the others is chance."""
    rng = random.Random(0)
    for step in (50, 100, 150):
        drawn = {f"p{i:02}": [int(rng.random() < 0.5) for _ in range(4)] for i in range(24)}
        evaluation(tmp_path / "a", drawn, step=step, config={"objective": "phf", "seed": 0})
        place = tmp_path / "a" / "checkpoints" / f"step-{step:06}"
        place.mkdir(parents=True)
        (place / "trainer.json").write_text(json.dumps({"step": step, "model": "m", "schedule": {}}))
    rows = phf("compare", "a", "--view", "dynamics", "--json").json
    by_step = {row["step"]: row["average"] for row in rows["rows"]}
    best = max(by_step, key=lambda step: by_step[step])
    (chosen,) = rows["chosen"]
    assert (chosen["step"], chosen["among"], chosen["average"]) == (best, 3, by_step[best])
    assert chosen["crossed"] < chosen["average"]
    for step in by_step:
        told = phf("compare", f"a/checkpoints/step-{step:06}", "--json").json["chosen"]
        assert [one["step"] for one in told] == ([step] if step == best and step != 150 else [])
    assert phf("compare", "a", "--json").json["chosen"] == []  # the last one is no choice


def test_the_best_by_trainings_own_evaluations_of_the_same_benchmark_is_chosen(phf: Phf, tmp_path: Path) -> None:
    evaluation(tmp_path / "a", SOME, step=50, config={"objective": "phf", "seed": 0})
    lines = [{"step": 50, "bench": "aime", "average": 0.5}, {"step": 100, "bench": "aime", "average": 0.4}]
    (tmp_path / "a" / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = phf("compare", "a", "--json").json
    assert [(one["step"], one["crossed"]) for one in done["chosen"]] == [(50, None)]
    assert "the best of 2 by evaluations of the same benchmark" in phf("compare", "a").out


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--fail-below", "60"], 0, ""),
        (["--fail-below", "80"], 3, "aime: good 75.0 %, below 80.0 %"),
        (["--at-least-as-good-as", "good", "--margin", "5"], 3, "bad is not shown to be at least as good as good"),
        (["--at-least-as-good-as", "bad", "--margin", "5"], 0, "good is at least as good as bad but for 5.0 points"),
        (["--at-least-as-good-as", "bad", "--margin", "0"], 0, "good is at least as good"),
        (["--at-least-as-good-as", "bad"], 2, "--margin belong together"),
        (["--margin", "5"], 2, "--margin belong together"),
        (["--at-least-as-good-as", "bad", "--margin", "5", "--view", "dynamics"], 2, "mixes checkpoints"),
    ],
)
def test_a_condition_that_does_not_hold_is_exit_code_3(
    phf: Phf, tmp_path: Path, options: list[str], code: int, words: str
) -> None:
    """Every problem is two in four of the one, and three in four of the other, but for some."""
    evaluation(tmp_path / "good", {f"p{i}": [1, 1, 1, 0] for i in range(12)})
    evaluation(tmp_path / "bad", {f"p{i}": [1, 1, 1, 0] if i < 2 else [1, 1, 0, 0] for i in range(12)})
    given = ["good"] if "60" in options or "80" in options else ["good", "bad"]
    done = phf("compare", *given, *options)
    assert (done.code, words in done.out + done.err) == (code, True)


def test_a_yardstick_alone_is_no_comparison(phf: Phf, tmp_path: Path) -> None:
    evaluation(tmp_path / "a", SOME)
    refused(phf("compare", "a", "--at-least-as-good-as", "a", "--margin", 1), "no other method")


def test_seeds_that_only_one_method_has_are_told(phf: Phf, tmp_path: Path) -> None:
    for name, seeds in (("opsd", (0, 1, 2)), ("phf", (0, 1))):
        for seed in seeds:
            evaluation(tmp_path / f"{name}{seed}", SOME, config={"objective": name, "seed": seed})
    notes = phf("compare", *sorted(path.name for path in tmp_path.iterdir()), "--json").json["unequal"]
    assert "opsd and phf have other seeds: over seeds only the common ones count, 0, 1" in notes
