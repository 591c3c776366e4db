"""phf train in two processes: the same run as in one, whoever starts them and whatever happens to one of them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from families import family, write
from safetensors.torch import load_file
from trained import SMALL, checkpoint_steps, evaluations, metrics, running, same_end, same_tensors, wait_for_step

from phfcli.core.errors import UserError
from phfcli.core.runs.folder import step_name
from phfcli.core.settings import resolve_train, set_sources
from phfcli.core.training.ranks import Ranks
from phfcli.core.training.setup import build_trainer

Phf = Callable[..., Any]

PLAIN = (*SMALL, "--set", "divergence.clip=null")  # without a warning
EVALUATED = ("--eval-every", "1", "--set", "evaluation.n=1", "--set", "evaluation.limit=3")  # 1 sample and 2
TWO = ("--processes", "2", "--steps", "4", "--set", "micro_batch_size=2", *PLAIN, *EVALUATED)
WHOLE = ("model.safetensors", "state/teacher.safetensors", "state/optimizer.safetensors")


def gradient(run: Path) -> dict[str, torch.Tensor]:
    """Of the first step: AdamW's first moment is then a tenth of it."""
    moments = load_file(run / "checkpoints" / step_name(1) / "optimizer.safetensors")
    return {name: 10 * value for name, value in moments.items() if name.endswith(":exp_avg")}


def same_but_for_rounding(one: Any, other: Any) -> bool:
    """Whether two steps are one. The engine's gap is itself of rounding, and of other tokens in other shares."""
    told = [key for key in one if not key.startswith("engine_")]
    apart = [key for key in told if other[key] != pytest.approx(one[key], rel=2e-4, abs=1e-7)]
    assert not apart, apart
    return one.keys() == other.keys()


@pytest.mark.slow
def test_two_processes_train_as_one_and_one_that_dies_ends_both(phf: Phf, tmp_path: Path) -> None:
    two, cut = tmp_path / "two", tmp_path / "cut"
    out, err = (process := running(two, *TWO)).communicate()
    assert (process.returncode, err) == (0, "")
    assert out.count("checkpoint") == 2  # its line, and its folder's name

    for size in (2, 4):  # two micro-batches, and one large batch
        run = tmp_path / str(size)
        options = ("--set", f"micro_batch_size={size}", "--steps", 1, *PLAIN, *EVALUATED)
        assert phf("train", *options, "--output-dir", run).code == 0
        ours, theirs = gradient(run), gradient(two)
        assert ours.keys() == theirs.keys()
        scale = max(value.abs().max() for value in ours.values())
        assert all((ours[name] - theirs[name]).abs().max() < 1e-5 * scale for name in ours)
        one, other = metrics(run)[0], metrics(two)[0]
        del one["padding"], other["padding"]
        energies = one.pop("layer_energy"), other.pop("layer_energy")
        assert energies[1] == pytest.approx(energies[0], rel=1e-4)
        assert same_but_for_rounding(one, other)
        assert evaluations(run)[0] == evaluations(two)[0]

    process = running(cut, *TWO)
    wait_for_step(process, cut, 2)
    (victim,) = [p for p in psutil.Process(process.pid).children() if p.environ().get("RANK") == "1"]
    victim.kill()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err == (
        "phf: process 1 of 2 was ended by SIGKILL, and the others with it; checkpoints are intact, "
        "and a resumed run goes on from the last one\n"
    )
    assert 1 <= len(checkpoint_steps(cut)) < 4
    process = running(cut, *TWO, "--resume")
    assert process.communicate() == (out.replace(str(two), str(cut)), "")
    assert same_end(two, cut, 4)
    assert evaluations(two) == evaluations(cut)
    assert not list(cut.rglob(".*"))


@pytest.mark.slow
def test_all_weights_spread_over_two_processes_train_as_in_one(phf: Phf, tmp_path: Path) -> None:
    one, two, cut = tmp_path / "one", tmp_path / "two", tmp_path / "cut"
    options = (*PLAIN, "--set", "tuning=full", "--set", "micro_batch_size=2", "--steps")
    spread = (*options, "2", "--processes", "2", "--set", "sharding=fsdp", "--set", "checkpoint_every=1")
    assert phf("train", *options, 2, "--set", "checkpoint_every=1", "--output-dir", one).code == 0
    assert running(two, *spread).communicate()[1] == ""
    for step, (alone, shared) in enumerate(zip(metrics(one), metrics(two), strict=True), start=1):
        assert shared.pop("layer_energy") == pytest.approx(alone.pop("layer_energy"), rel=1e-4)
        for binned in [name for name in alone if isinstance(alone[name], list)]:
            assert shared.pop(binned) == pytest.approx(alone.pop(binned), rel=1e-3, abs=1e-6)
        assert same_but_for_rounding(alone, shared)
        assert shared["padding"] == 0  # packed
        for file in WHOLE:
            ours, theirs = load_file(checkpoint(one, step) / file), load_file(checkpoint(two, step) / file)
            assert ours.keys() == theirs.keys()
            assert all((ours[k] - theirs[k]).abs().max() <= 2e-5 * ours[k].abs().max() for k in ours), file

    shutil.copytree(two, cut)
    shutil.rmtree(checkpoint(cut, 2))
    assert running(cut, *spread, "--resume").communicate()[1] == ""
    assert metrics(cut) == metrics(two)
    assert all(same_tensors(checkpoint(cut, 2) / file, checkpoint(two, 2) / file) for file in WHOLE)
    # a checkpoint of parts is one of whole weights: it goes on in one process
    assert phf("train", *options, 3, "--resume", "--set", "sharding=none", "--output-dir", cut).code == 0


@pytest.mark.slow
def test_a_spread_model_that_cannot_be_packed_is_hardly_padded(phf: Phf, tmp_path: Path) -> None:
    model = write(family("qwen3_next"), tmp_path / "model")
    options = ("--model", model, "--data", "embedded", "--steps", "1", *PLAIN)
    options = (*options, "--set", "batch_size=8", "--set", "micro_batch_size=4")
    assert phf("train", *options, "--output-dir", tmp_path / "one").code == 0
    two = running(tmp_path / "two", *options, "--processes", "2", "--set", "sharding=fsdp")
    told = "qwen3_next: sequences of one batch are padded, for they cannot be packed\n"
    assert two.communicate()[1] == told  # once
    alone, spread = metrics(tmp_path / "one")[0], metrics(tmp_path / "two")[0]
    assert spread["loss"] == pytest.approx(alone["loss"], rel=1e-4)
    assert spread["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-4)
    assert spread["padding"] <= 0.02


@pytest.mark.slow
def test_two_processes_draw_a_step_ahead_as_one_does(phf: Phf, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    ahead = ("--steps", "3", *PLAIN, "--set", "rollout.ahead=1", "--set", "micro_batch_size=2")
    assert phf("train", *ahead, "--output-dir", one).code == 0
    assert running(two, *ahead, "--processes", "2").communicate()[1] == ""
    assert [step["staleness"] for step in metrics(two)] == [0, 1, 1]
    for alone, shared in zip(metrics(one), metrics(two), strict=True):
        assert shared["loss"] == pytest.approx(alone["loss"], rel=1e-4)
        assert shared["rollout_tokens"] == alone["rollout_tokens"]


def checkpoint(run: Path, step: int) -> Path:
    return run / "checkpoints" / step_name(step)


@pytest.mark.slow
def test_each_of_two_processes_holds_half_of_what_all_weights_need(tmp_path: Path) -> None:
    program = Path(__file__).parents[1] / "support" / "whole_training.py"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(program), str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(torchrun, env=environment, check=True, capture_output=True, timeout=300)
    weights = 626_304 * 4  # of the embedded model, float32
    for rank in (0, 1):
        held = json.loads((tmp_path / f"{rank}.json").read_text())
        assert held == pytest.approx(4 * weights / 2, rel=0.01)  # weights, teacher and both of AdamW's moments


@pytest.mark.slow
def test_two_machines_train_together_and_stop_together(phf: Phf, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    # eight completions of one problem: its group is spread over both, and so are the weights of the base
    options = ("--objective", "grpo", "--set", "grpo.group_size=8", *SMALL, "--set", "batch_size=1", "--steps")
    assert phf("train", *options, 1, "--output-dir", one).code == 0
    agents = _two_agents("train", *options, "200", "--set", "sharding=fsdp", "--output-dir", str(two))
    wait_for_step(agents[0], two, 2)
    agents[1].send_signal(signal.SIGTERM)
    told = [agent.communicate(timeout=60) for agent in agents]
    assert all(agent.returncode for agent in agents)
    (line,) = [line for _, err in told for line in err.splitlines() if line.startswith("phf: ")]
    (step,) = checkpoint_steps(two)  # both stopped after it, or one of them would have been waited for
    assert line == f"phf: stopped by SIGTERM after step {step} of 200; --resume goes on from its checkpoint"
    assert len(metrics(two)) == step
    first, other = metrics(one)[0], metrics(two)[0]
    del first["padding"], other["padding"]
    assert same_but_for_rounding(first, other)


@pytest.mark.slow
def test_a_rank_whose_launcher_does_not_end_it_says_that_it_is_alone(tmp_path: Path) -> None:
    """As under a scheduler that starts each rank by itself."""
    run, place = tmp_path / "run", {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(_free_port())}
    command = [sys.executable, "-m", "phfcli", "train", "--steps", "200", *PLAIN, "--checkpoint-every", "1"]
    own = [os.environ | place | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    begin = partial(subprocess.Popen, [*command, "--output-dir", str(run)], stderr=subprocess.PIPE, text=True)
    with begin(env=own[0]) as main, begin(env=own[1]) as other:
        wait_for_step(main, run, 2)
        other.kill()
        _, err = main.communicate(timeout=60)
    assert main.returncode == 1
    assert err == (
        "phf: another process of the run is gone; checkpoints are intact, and a resumed run goes on from the last one\n"
    )
    assert checkpoint_steps(run)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port: int = free.getsockname()[1]
    return port


def _two_agents(*arguments: str) -> list["subprocess.Popen[str]"]:
    """torchrun as it is started on each of two machines; here both are this one."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{_free_port()}", "--rdzv-id", "test"]
    command += ["--local-addr", "localhost", "-m", "phfcli", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    return [subprocess.Popen(command, **pipes) for _ in range(2)]


def test_processes_within_a_launcher_are_refused(phf: Phf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    done = phf("train", "--processes", 2)
    assert done.code == 2
    assert done.err.startswith("phf: --processes: a launcher has started this process already")


@pytest.mark.parametrize(
    ("settings", "size", "words"),
    [
        (["batch_size=1"], 2, "1 completions are too few for 2 processes to share"),
        (["batch_size=5", "sharding=fsdp"], 2, "5 completions must be a multiple of 2 processes"),
        (["sharding=fsdp"], 1, "there is one process only"),
        (["sharding=fsdp", "tuning=full", "rollout.engine=vllm"], 2, "no process has whole weights to hand over"),
    ],
)
def test_what_processes_cannot_share_is_refused(tmp_path: Path, settings: list[str], size: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        build_trainer(resolve_train(set_sources(settings)), tmp_path, fresh=True, ranks=Ranks(0, size))
