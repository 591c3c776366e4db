"""phf train: what it writes, that a stop changes nothing, and that PEFT alone can load the result."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from trained import (
    SMALL,
    checkpoint_steps,
    metrics,
    running,
    same_end,
    same_tensors,
    undrawn,
    wait_for_step,
)

from phfcli.core.runs.flows import open_flow
from phfcli.core.runs.folder import recorded_config, step_name
from phfcli.core.shipped_files import embedded_problems, objectives
from phfcli.core.training.trainer import Trainer

Phf = Callable[..., Any]

STATE = "trainer.json"
QUICK = ("phf", "sft")  # with rollouts and a teacher, and without either


def test_a_run_directory(phf: Phf, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = phf("train", "--steps", 2, "--checkpoint-every", 1, "--output-dir", run, *SMALL, "--json")
    assert done.code == 0
    assert done.json["checkpoint"] == str(run / "checkpoints" / "step-000002")
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["model"], config["objective"], config["steps"]) == ("embedded", "phf", 2)
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["data"]["problems"] == 4000
    assert len(manifest["model"]["sha256"]) == len(manifest["data"]["sha256"]) == 64
    assert {"torch", "transformers", "peft", "phfcli"} <= manifest["versions"].keys()
    lines = metrics(run)
    assert [line["step"] for line in lines] == [1, 2]
    assert {"loss", "divergence", "flow", "clipped_entries", "clipped_tokens", "clip_share", "grad_norm"} <= lines[
        0
    ].keys()
    assert len(lines[0]["layer_energy"]) == 4
    flow = open_flow(run / "flows" / "step-000002.safetensors")
    assert flow.layers == [1, 2, 3, 4]
    assert len(flow.rollouts) == 4


def test_peft_alone_loads_a_checkpoint(evaluated_run: Path) -> None:
    folder = evaluated_run / "checkpoints" / "step-000001"
    model = AutoPeftModelForCausalLM.from_pretrained(folder)
    saved = load_file(folder / "adapter_model.safetensors")
    loaded = {name.replace(".default", ""): p for name, p in model.named_parameters() if "lora_" in name}
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)
    assert not [p for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pkl")]


@pytest.mark.parametrize(
    "objective",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in objectives()],
)
def test_every_objective_trains(phf: Phf, tmp_path: Path, objective: str) -> None:
    done = phf("train", "--objective", objective, "--steps", 2, "--output-dir", tmp_path / "run", *SMALL)
    assert done.code == 0
    moved = load_file(tmp_path / "run" / "checkpoints" / "step-000002" / "adapter_model.safetensors")
    assert any(t.abs().max() > 0 for name, t in moved.items() if "lora_B" in name)
    assert undrawn(tmp_path / "run") == set()


@pytest.mark.slow
@pytest.mark.parametrize("teacher", ["ema", "fixed", "online"])
def test_resuming_changes_nothing(phf: Phf, tmp_path: Path, teacher: str) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    # a short horizon: a first step at another rate than the schedule's would show
    options = ("--teacher", teacher, "--checkpoint-every", 2, "--set", "optim.horizon_steps=6", *SMALL)
    assert phf("train", "--steps", 4, "--output-dir", whole, *options).code == 0
    assert phf("train", "--steps", 3, "--output-dir", cut, *options).code == 0
    last = cut / "checkpoints" / "step-000003"
    (last / "trainer.json").unlink()  # as a stop would leave it: step 2 is the newest complete one
    done = phf("train", "--steps", 4, "--output-dir", cut, "--resume", "--quiet")
    assert done.code == 0
    assert same_end(whole, cut, 4)
    assert same_tensors(whole / "flows/step-000004.safetensors", cut / "flows/step-000004.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["sft", "grpo"])
def test_resuming_changes_nothing_without_a_teacher(phf: Phf, tmp_path: Path, objective: str) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = ("--objective", objective, "--checkpoint-every", 1, *SMALL)
    assert phf("train", "--steps", 3, "--output-dir", whole, *options).code == 0
    assert phf("train", "--steps", 2, "--output-dir", cut, *options).code == 0
    done = phf("train", "--steps", 3, "--output-dir", cut, "--resume", "--quiet")
    assert (done.code, done.err) == (0, "")  # it has not gone back to the start
    for name in ("adapter_model", "optimizer"):
        file = f"checkpoints/step-000003/{name}.safetensors"
        assert same_tensors(whole / file, cut / file)
    assert not load_file(whole / "checkpoints/step-000003/teacher.safetensors")
    assert metrics(whole) == metrics(cut)
    assert not {"teacher_distance", "layer_energy"} & metrics(cut)[0].keys()
    assert not (cut / "flows").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "metric", "sign"), [("sft", "nll", -1), ("grpo", "reward", 1)])
def test_it_learns_on_the_embedded_model(phf: Phf, tmp_path: Path, objective: str, metric: str, sign: int) -> None:
    rows = embedded_problems("train").read_text().splitlines()[:4]
    data = tmp_path / "four.jsonl"
    data.write_text("\n".join(rows))
    options = ("--objective", objective, "--data", data, "--steps", 16, "--set", "batch_size=4", "--quiet")
    assert phf("train", *options, "--output-dir", tmp_path / "run").code == 0
    values = [line[metric] for line in metrics(tmp_path / "run")]
    assert sign * (sum(values[-5:]) - sum(values[:5])) / 5 > 0.08


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("adapter_model.safetensors", -2),
        *(
            pytest.param(name, left, marks=pytest.mark.slow)
            for name, left in (("teacher.safetensors", 100), ("optimizer.safetensors", 0), (STATE, -2), (STATE, 0))
        ),
    ],
)
def test_a_cut_checkpoint_is_skipped_with_a_warning(
    phf: Phf, evaluated_run: Path, run: Path, name: str, left: int
) -> None:
    damaged = run / "checkpoints" / step_name(2) / name
    os.truncate(damaged, left if left >= 0 else damaged.stat().st_size + left)
    done = phf("train", "--output-dir", run, "--resume", "--quiet")
    assert done.code == 0
    (warning,) = [line for line in done.err.splitlines() if "the clip takes" not in line]
    assert warning.startswith(f"warning: checkpoint skipped: {damaged}: ")
    assert warning.endswith("; set aside as damaged-step-000002; going back to step 1")
    assert same_end(evaluated_run, run, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["teacher.safetensors", STATE])
def test_nothing_is_taken_from_a_damaged_checkpoint(phf: Phf, evaluated_run: Path, run: Path, name: str) -> None:
    shutil.rmtree(run / "checkpoints" / step_name(2))
    os.truncate(run / "checkpoints" / step_name(1) / name, 100)
    done = phf("train", "--output-dir", run, "--resume", "--quiet")
    assert done.err.splitlines()[0].endswith("going back to the start")
    assert same_end(evaluated_run, run, 2)  # only if the run began with the weights of a new one


@pytest.mark.slow
def test_the_newest_checkpoints_are_kept(phf: Phf, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert phf("train", "--steps", 3, "--checkpoint-every", 1, "--keep", 2, "--output-dir", run, *SMALL).code == 0
    assert checkpoint_steps(run) == [2, 3]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [step_name(2), step_name(3)]
    assert sorted(path.stem for path in (run / "flows").iterdir()) == [step_name(step) for step in (1, 2, 3)]
    assert phf("train", "--resume", "--steps", 4, "--keep", 1, "--output-dir", run, "--quiet").code == 0
    assert checkpoint_steps(run) == [4]
    assert recorded_config(run).steps == 4  # a further --resume goes as far


@pytest.mark.slow
def test_a_damaged_checkpoint_does_not_count_as_a_kept_one(phf: Phf, run: Path) -> None:
    (run / "checkpoints" / step_name(2) / "teacher.safetensors").write_bytes(b"")
    assert phf("train", "--resume", "--steps", 3, "--keep", 1, "--output-dir", run, "--quiet").code == 0
    assert checkpoint_steps(run) == [3]
    assert (run / "checkpoints" / f"damaged-{step_name(2)}").is_dir()


def test_a_finished_run_is_left_as_it_is(phf: Phf, run: Path) -> None:
    before = (run / "checkpoints/step-000002/adapter_model.safetensors").read_bytes()
    assert phf("train", "--output-dir", run, "--resume", "--quiet").code == 0
    assert (run / "checkpoints/step-000002/adapter_model.safetensors").read_bytes() == before
    done = phf("train", "--output-dir", run, "--quiet")
    assert done.code == 2
    assert "is not empty; resume the run" in done.err


def test_a_resumed_run_keeps_its_settings(phf: Phf, run: Path) -> None:
    done = phf("train", "--output-dir", run, "--resume", "--steps", 3, "--alpha", 0.5)
    assert done.code == 2
    assert "resume: flow" in done.err
    assert len(metrics(run)) == 2
    done = phf("train", "--output-dir", run, "--resume", "--steps", 3, "--set", "lora.r=8", "--force")
    assert (done.code, "its checkpoints do not fit this setting" in done.err) == (2, True)
    done = phf("train", "--output-dir", run, "--resume", "--steps", 3, "--alpha", 0.5, "--force", "--quiet")
    assert done.code == 0
    assert "warning: forced from step 2 on: flow was" in done.err
    assert len(metrics(run)) == 3
    assert yaml.safe_load((run / "config.yaml").read_text())["flow"]["alpha"] == 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
def test_a_signal_saves_at_the_next_step_and_resuming_changes_nothing(
    phf: Phf, tmp_path: Path, number: signal.Signals, name: str
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert phf("train", "--steps", 16, "--output-dir", whole, *SMALL).code == 0
    process = running(cut, "--steps", "16", *SMALL, "--json")
    wait_for_step(process, cut, 2)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    step = json.loads(out)["step"]
    assert 2 <= step < 16
    assert json.loads(out)["checkpoint"] == str(cut / "checkpoints" / step_name(step))
    stop = f"phf: stopped by {name} after step {step} of 16; --resume goes on from its checkpoint"
    assert err.splitlines()[-1] == stop
    assert len(metrics(cut)) == step
    assert phf("train", "--output-dir", cut, "--resume", "--quiet").code == 0
    assert same_end(whole, cut, 16)


@pytest.mark.slow
def test_a_stop_is_asked_for_once_and_the_handler_put_back(
    phf: Phf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    step_of_the_loop = Trainer.train_step

    def step_with_a_signal(self: Trainer, step: int) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return step_of_the_loop(self, step)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", step_with_a_signal)
        done = phf("train", "--steps", 2, "--output-dir", tmp_path / "run", *SMALL)
        assert (done.code, signal.getsignal(signal.SIGTERM)) == (143, before)
        assert done.out.endswith(f"next       phf train --resume --output-dir {tmp_path / 'run'}\n")
        assert phf("train", "--resume", "--output-dir", tmp_path / "run", "--quiet").code == 0  # that was the last step
    assert len(metrics(tmp_path / "run")) == 2


@pytest.mark.slow
def test_a_run_whose_folder_is_moved_ends_and_goes_on_once_it_is_back(
    phf: Phf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run, step_of_the_loop = tmp_path / "run", Trainer.train_step

    def step_that_loses_its_folder(self: Trainer, step: int) -> Any:
        if step == 2:
            run.rename(tmp_path / "moved")
        return step_of_the_loop(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", step_that_loses_its_folder)
        done = phf("train", "--steps", 3, "--output-dir", run, "--checkpoint-every", 1, *SMALL)
    line = done.err.splitlines()[-1]
    assert (done.code, done.out, run.exists()) == (1, "", False)
    assert "moved or removed" in line
    (tmp_path / "moved").rename(run)
    assert phf("train", "--resume", "--output-dir", run, "--quiet").code == 0
    assert len(metrics(run)) == 3


@pytest.mark.slow
def test_a_run_killed_at_any_moment_resumes_to_the_same_end(phf: Phf, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = ("--steps", "6", "--checkpoint-every", "1", *SMALL, "--resume")
    assert phf("train", *options, "--output-dir", whole).code == 0
    for step in (1, 3):
        process = running(cut, *options)
        wait_for_step(process, cut, step)
        process.kill()
        process.communicate()
    assert phf("train", *options, "--output-dir", cut).code == 0
    assert same_end(whole, cut, 6)


@pytest.mark.slow
def test_parameters_that_get_no_gradient_do_not_spoil_a_checkpoint(phf: Phf, tmp_path: Path) -> None:
    options = ("--objective", "oprd", "--set", "oprd.layers=[1,2]", "--checkpoint-every", 1, *SMALL)
    phf("train", "--steps", 2, "--output-dir", tmp_path / "run", *options)
    done = phf("train", "--steps", 3, "--output-dir", tmp_path / "run", "--resume", *options)
    assert (done.code, done.err) == (0, "")
    assert len(metrics(tmp_path / "run")) == 3


@pytest.mark.slow
def test_checkpoints_that_lack_what_is_forced_stay_as_they_are(phf: Phf, tmp_path: Path) -> None:
    phf("train", "--objective", "sft", "--steps", 2, "--output-dir", tmp_path / "run", *SMALL)
    done = phf("train", "--objective", "opsd", "--steps", 3, "--output-dir", "run", "--resume", "--force", *SMALL)
    assert done.code == 2
    assert "not a checkpoint of this model" in done.err
    assert checkpoint_steps(tmp_path / "run") == [2]
    assert len(metrics(tmp_path / "run")) == 2


@pytest.mark.slow
def test_a_forced_rate_is_the_one_that_is_taken(phf: Phf, tmp_path: Path) -> None:
    options = ("--objective", "sft", "--output-dir", tmp_path / "run", *SMALL)
    phf("train", "--steps", 1, "--set", "optim.lr=1e-3", *options)
    phf("train", "--steps", 2, "--set", "optim.lr=1e-4", "--resume", "--force", *options)
    first, second = (step["lr"] for step in metrics(tmp_path / "run"))
    assert first == 1e-3
    assert second == pytest.approx(1e-4, rel=0.01)


def test_the_record_says_where_each_setting_comes_from(phf: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("batch_size: 2\nflow: {saved_samples: 0}\n")
    done = phf("train", "--config", "opsd", "--config", file, "--steps", 1, "--set", "rollout.max_new_tokens=8", "-q")
    assert done.code == 0
    manifest = json.loads((tmp_path / "runs" / "opsd-embedded-seed0" / "manifest.json").read_text())
    origins = manifest["origins"]
    assert origins["steps"] == "--steps"
    assert origins["batch_size"] == f"--config {file}"
    assert origins["rollout.max_new_tokens"] == "--set rollout.max_new_tokens"
    assert origins["objective"] == "--config opsd"
    assert origins["optim.lr"] == "recipe embedded"
