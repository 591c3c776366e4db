"""`phf probe` says what is there to learn: on a model that can learn, one that knows all, and a leaking style."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phfcli.core.analysis.probe import Clock

NAMES = {"reference", "first-third", "answer", "sibling", "other-reference", "other-problem", "wrong-answer"}
ATTACK = "<script>window.hacked=1</script>"
FEW = ("--problems", "40", "--contexts", "reference", "--quiet")


def chains(change: Callable[[str], str] = lambda text: text) -> str:
    """Problems without a carry, which the embedded model solves; `change` writes their references otherwise."""
    rows = []
    for place in range(48):
        a, b, c, d = 11 + place % 4, 20 + place % 5, 1 + place % 3, 10 + 10 * (place % 2)
        one, two = a + b, a + b + c
        three, four = two + d, two + d - 11
        steps = f"{a}+{b}={one}; {one}+{c}={two}; {two}+{d}={three}; {three}-11={four}. \\boxed{{{four}}}"
        problem = f"Start with {a}, add {b}, add {c}, add {d}, subtract 11."
        rows.append({"problem": problem, "solution": change(steps), "answer": str(four), "hint": f"{ATTACK} {one}"})
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def easy(tmp_path: Path) -> Path:
    path = tmp_path / "easy.jsonl"
    path.write_text(chains())
    return path


@pytest.mark.slow
def test_the_embedded_model_has_something_to_learn(phf: Callable[..., Any], tmp_path: Path) -> None:
    done = phf("probe", "embedded", "--problems", 30, "--json", "-o", tmp_path / "page.html")
    assert done.code == 0
    assert done.err.index("cost: 480 completions of at most 96 tokens") < done.err.index("drawing 60 rollouts")
    report = done.json
    assert set(report) == {"readings", "information", "contexts", "entropy", "about"}
    assert "The context helps" in " ".join(each["text"] for each in report["readings"] if each["holds"] == "good")
    assert set(report["contexts"]) == {"plain", *NAMES}
    reference, other = report["contexts"]["reference"], report["contexts"]["other-reference"]
    assert reference["score"] > 0.9 > 0.7 > report["contexts"]["plain"]["average"]
    assert reference["wrong"] > 2 * reference["right"]  # the teacher objects to wrong rollouts
    assert other["score"] < 0.1
    assert len(reference["by_position"]) == 16
    assert len(report["entropy"]["tokens_by_level"]) == len(reference["by_entropy"]) == 8
    assert sum(share for _, share in reference["by_kind"].values()) == pytest.approx(1)
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 4
    for sentence in report["readings"]:
        assert sentence["rule"].split("'")[0] in page


@pytest.mark.slow
def test_a_model_that_knows_all_has_nothing_to_learn(phf: Callable[..., Any], easy: Path) -> None:
    done = phf("probe", "embedded", "--data", easy, *FEW, "--json", "--set", "rollout.top_k=1")
    assert done.json["contexts"]["plain"]["average"] == 1
    [gain] = [each for each in done.json["readings"] if "plain and" in each["text"]]
    assert gain["holds"] in ("cannot tell", "bad")


@pytest.mark.slow
def test_references_that_leak_a_style_are_found_out(phf: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "styled.jsonl"
    path.write_text(chains(lambda text: text.replace("; ", ", ")))
    done = phf("probe", "embedded", "--data", path, *FEW, "--json", "--set", "rollout.top_k=1")
    assert done.json["information"]["share"] < 0.5
    assert [each["holds"] for each in done.json["readings"] if "is style" in each["text"]] == ["bad"]


def told(done: Any) -> str:
    return " ".join(each["text"] for each in done.json["readings"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--set", "rollout.max_new_tokens=2"], "Cannot tell: every rollout was cut; raise rollout.max_new_tokens"),
        (["--n", "1", "--set", "rollout.max_new_tokens=2"], "Cannot tell information from style with 3 rollouts"),
        (["--set", "divergence.kind=forward_kl", "--set", "divergence.clip=null"], "divergence forward_kl, no clip"),
        (["--set", "divergence.clip_mode=token", "--set", "divergence.gate=0.9"], "clip of 0.05 of each token. Not in"),
        (["--set", "teacher.context=answer"], "Readings of teacher.context 'answer'"),
    ],
)
def test_the_readings_are_of_the_settings_at_hand(phf: Callable[..., Any], options: list[str], words: str) -> None:
    done = phf("probe", "embedded", "--problems", 3, "--contexts", "reference", "--json", "--quiet", *options)
    assert words in told(done)


def test_the_time_that_is_left_is_said() -> None:
    said: list[str] = []
    clock = Clock(100, said.append)
    clock.started, clock.said = clock.started - 60, clock.said - 60
    for _ in range(3):
        clock.tick()
    assert said == ["1 of 100 completions drawn, at most 99.0 minutes left"]


@pytest.mark.slow
def test_hints_of_the_data_are_contexts_and_are_escaped(phf: Callable[..., Any], easy: Path, tmp_path: Path) -> None:
    text = f"Hint, {ATTACK}: {{hint}}"
    page = tmp_path / "page.html"
    done = phf("probe", "embedded", "--data", easy, "--problems", 4, "--contexts", text, "--json", "-o", page)
    assert list(done.json["contexts"]) == ["plain", "reference", text, "other-reference"]
    assert ATTACK not in page.read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--contexts", "anser"], "contexts: teacher.context: 'anser' is unknown; did you mean 'answer'"),
        (["--contexts", "reference-free"], "same weights and the same prompt, so the loss is 0"),
        (["--contexts", "{hunt}"], "no column 'hunt', which teacher.context or target names"),
        (["-o", "page.txt"], "use a name that ends in .html"),
        (["--set", "rollout.max_new_tokens=2000"], "no problem fits into the model's context"),
        (["--data", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_bad_input_is_one_line(phf: Callable[..., Any], options: list[str], words: str) -> None:
    done = phf("probe", "embedded", *options)
    assert done.code == 2
    assert words in done.err
    assert len(done.err.splitlines()) == 1


def test_a_model_that_is_not_there_is_named_and_not_the_data(phf: Callable[..., Any]) -> None:
    done = phf("probe", "./nowhere")
    assert done.code == 2
    assert done.err.strip() == "phf: ./nowhere: no such model folder"


def test_it_ends_with_the_training_that_we_would_begin(phf: Callable[..., Any], easy: Path) -> None:
    done = phf("probe", "embedded", "--data", easy, "--problems", 2, "--n", 1, "--contexts", "reference", "--quiet")
    assert done.out.splitlines()[-1] == f"next       phf train --data {easy} --config recommended"
