"""phf train --objective opsd: every option of the family reaches the loss, the prompts and the run's own record."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from trained import SMALL, metrics

Phf = Callable[..., Any]

VARIANTS = {
    "jsd 0.5": (),
    "jsd 0.2": ("--set", "divergence.beta=0.2"),
    "forward": ("--config", "opsd-forward-kl"),
    "reverse": ("--set", "divergence.kind=reverse_kl"),
    "top-k": ("--set", "divergence.top_k=5"),
    "unclipped": ("--set", "divergence.clip=null"),
    "silent": ("--set", "prompt.teacher_thinking=false"),
}


def test_every_divergence_and_mode_is_another_loss(phf: Phf, tmp_path: Path) -> None:
    first = {}
    for name, options in VARIANTS.items():
        run = tmp_path / name
        assert phf("train", "--objective", "opsd", "--steps", 1, *options, *SMALL, "--output-dir", run).code == 0
        (line,) = metrics(run)
        first[name] = round(line["loss"], 9)
        assert line["rollout_tokens"] == metrics(tmp_path / "jsd 0.5")[0]["rollout_tokens"]
    assert len(set(first.values())) == len(VARIANTS)


@pytest.mark.parametrize(("student", "teacher"), [("true", "false"), ("false", "true")])
def test_each_reader_has_its_own_mode(phf: Phf, student: str, teacher: str) -> None:
    modes = ("--set", f"prompt.thinking={student}", "--set", f"prompt.teacher_thinking={teacher}")
    prompts = phf("train", "--objective", "opsd", *modes, "--dry-run", "--json").json["prompts"]
    assert ("</think>" in prompts["student"]) is (student == "false")
    assert ("</think>" in prompts["teacher"]) is (teacher == "false")


def test_the_teachers_prompt_is_a_files_and_the_run_keeps_its_text(phf: Phf, tmp_path: Path) -> None:
    file = tmp_path / "teacher.txt"
    file.write_text("Known: {solution}\nNow {problem} \\boxed{}")
    options = ("--objective", "opsd", "--teacher-prompt", file)
    assert "Known: " in phf("train", *options, "--dry-run", "--json").json["prompts"]["teacher"]
    run = tmp_path / "run"
    assert phf("train", *options, "--steps", 1, *SMALL, "--output-dir", run).code == 0
    assert yaml.safe_load((run / "config.yaml").read_text())["prompt"]["teacher"] == file.read_text()
    file.unlink()
    assert phf("train", "--resume", "--steps", 2, "--output-dir", run).code == 0


@pytest.mark.parametrize(
    ("text", "message"), [(None, "cannot be read"), ("{problem}", "the template lacks {solution}")]
)
def test_a_bad_template_is_one_line(phf: Phf, tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "teacher.txt"
    if text is not None:
        file.write_text(text)
    done = phf("train", "--teacher-prompt", file, "--output-dir", tmp_path / "run")
    assert done.code == 2
    assert message in done.err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_the_recipes_are_the_published_variants(phf: Phf) -> None:
    forward = phf("train", "--config", "opsd-forward-kl", "--dry-run", "--json").json["settings"]
    assert (forward["objective"], forward["divergence"]["kind"]) == ("opsd", "forward_kl")
    chosen = phf("train", "--config", "qwen3-4b", "--config", "opsd-top-k", "--dry-run", "--json").json["settings"]
    assert (chosen["divergence"]["top_k"], chosen["divergence"]["clip"], chosen["teacher"]["kind"]) == (
        50,
        None,
        "fixed",
    )
    assert (chosen["optim"]["lr"], chosen["rollout"]["temperature"]) == (2e-5, 1.2)
