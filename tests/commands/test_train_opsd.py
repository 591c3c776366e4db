"""phf train --objective opsd: every option of the family reaches the loss, the prompts and the run's own record."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from trained import SMALL, metrics

from phfcli.core.config import TrainConfig
from phfcli.core.settings import file_sources, resolve_train

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


@pytest.mark.slow
def test_every_divergence_and_mode_is_another_loss(phf: Phf, tmp_path: Path) -> None:
    first = {}
    for name, options in VARIANTS.items():
        run = tmp_path / name
        assert phf("train", "--objective", "opsd", "--steps", 1, *options, *SMALL, "--output-dir", run).code == 0
        (line,) = metrics(run)
        first[name] = round(line["loss"], 9)
        assert line["rollout_tokens"] == metrics(tmp_path / "jsd 0.5")[0]["rollout_tokens"]
    assert len(set(first.values())) == len(VARIANTS)


@pytest.mark.slow
@pytest.mark.parametrize(("student", "teacher"), [("true", "false"), ("false", "true")])
def test_each_reader_has_its_own_mode(phf: Phf, student: str, teacher: str) -> None:
    modes = ("--set", f"prompt.thinking={student}", "--set", f"prompt.teacher_thinking={teacher}")
    prompts = phf("train", "--objective", "opsd", *modes, "--dry-run", "--json").json["prompts"]
    assert ("</think>" in prompts["student"]) is (student == "false")
    assert ("</think>" in prompts["teacher"]) is (teacher == "false")


@pytest.mark.slow
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


@pytest.mark.parametrize(("text", "message"), [(None, "no such file"), ("{problem}", "the template lacks {solution}")])
def test_a_bad_template_is_one_line(phf: Phf, tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "teacher.txt"
    if text is not None:
        file.write_text(text)
    done = phf("train", "--teacher-prompt", file, "--output-dir", tmp_path / "run")
    assert done.code == 2
    assert message in done.err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_the_recipes_are_the_published_variants() -> None:
    def over_qwen3(name: str) -> TrainConfig:
        return resolve_train(file_sources(["qwen3-4b", name]))

    forward, chosen, script = over_qwen3("opsd-forward-kl"), over_qwen3("opsd-top-k"), over_qwen3("opsd-script")
    assert (forward.divergence.kind, forward.divergence.clip, forward.optim.lr) == ("forward_kl", 0.05, 5e-6)
    assert (forward.prompt.thinking, forward.prompt.teacher_thinking) == (False, True)
    assert (chosen.divergence.top_k, chosen.divergence.clip, chosen.teacher.kind) == (50, None, "fixed")
    assert (chosen.optim.lr, chosen.rollout.temperature, chosen.batch_size) == (2e-4, 1.1, 8)
    assert (script.optim.lr, script.divergence.beta, script.divergence.clip, script.batch_size) == (2e-4, 0.5, None, 32)
    for name in ("grpo", "oisd", "grpo-script"):
        assert over_qwen3(name).rollout.max_new_tokens == 16000


def test_the_forward_kl_of_the_embedded_model_is_one_that_works() -> None:
    config = resolve_train(file_sources(["embedded", "opsd-forward-kl"]))
    assert (config.divergence.kind, config.divergence.clip, config.divergence.temperature) == ("forward_kl", None, 2.0)
    assert (config.optim.lr, config.rollout.max_new_tokens, config.teacher.kind) == (3e-4, 96, "ema")


def test_a_clip_on_a_kl_divergence_is_warned_of_and_measured(phf: Phf, tmp_path: Path) -> None:
    options = ("--config", "opsd-forward-kl", "--set", "divergence.clip=0.05", "--output-dir", tmp_path / "run")
    done = phf("train", *options, "--steps", 1, *SMALL)
    assert done.code == 0
    assert "warning: divergence.clip: on the entries of forward_kl it drives those that it holds away" in done.err
    assert "of the tokens against the divergence; raise divergence.clip, or set it to null" in done.err
    assert metrics(tmp_path / "run")[0]["turned_tokens"] > 0.01


@pytest.mark.slow
def test_a_line_names_the_divergence_that_is_in_it(phf: Phf, tmp_path: Path) -> None:
    loud = [option for option in SMALL if option != "--quiet"]
    for options, name in ((("--config", "opsd-forward-kl"), "forward_kl"), (("--objective", "opsd"), "jsd")):
        done = phf("train", *options, "--steps", 1, *loud, "--output-dir", tmp_path / name)
        assert f" {name} " in next(line for line in done.err.splitlines() if line.startswith("step"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "teacher",
    [
        ("--set", "teacher.states=unprivileged"),
        ("--set", "teacher.states=fixed"),
        ("--teacher", "synced", "--set", "teacher.every=2"),
    ],
)
def test_every_teacher_resumes_to_the_same_end_and_is_collected(phf: Phf, tmp_path: Path, teacher: Any) -> None:
    options = (*teacher, *SMALL)
    for steps in (1, 2):
        assert phf("train", "--steps", steps, *options, "--resume", "--output-dir", tmp_path / "cut").code == 0
    assert phf("train", "--steps", 2, *options, "--output-dir", tmp_path / "whole").code == 0
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    checkpoint = tmp_path / "whole" / "checkpoints" / "step-000002"
    assert phf("collect", checkpoint, "-o", "flow.safetensors").code == 0


def test_a_hidden_target_of_its_own_needs_two_targets(phf: Phf) -> None:
    for options in (("--objective", "opsd"), ("--objective", "oprd")):
        done = phf("train", *options, "--set", "teacher.states=fixed", "--dry-run")
        assert done.code == 2
        assert "has no two targets" in done.err
