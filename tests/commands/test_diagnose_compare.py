"""phf diagnose and phf compare, on a run that phf train and phf eval have made."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from phfcli.core.flows import load_flow
from phfcli.core.names import ENERGIES

Phf = Callable[..., Any]


@pytest.fixture
def run(phf: Phf, tmp_path: Path) -> Path:
    options = ("--set", "batch_size=4", "--quiet")
    phf("train", "--steps", 2, "--checkpoint-every", 1, "--output-dir", "run", *options)
    return tmp_path / "run"


def test_shares_equal_a_computation_by_hand(phf: Phf, run: Path) -> None:
    report = phf("diagnose", run, "--json").json
    flow = load_flow(run / "flows" / "step-000002.safetensors")
    energies = []
    for layer in range(4):
        values = []
        for row in range(4):
            m = int(flow.valid[row].sum())
            directions = []
            for states in (flow.student, flow.teacher):
                moves = states[layer, row, :m].double().diff(dim=0)
                directions.append(moves / (moves.norm(dim=1, keepdim=True) + 1e-8))
            s, t = directions
            direction = (1 - (s * t).sum(1)).mean()
            geometry = (s @ s.T - t @ t.T).square().sum() / (m - 1) ** 2
            values.append((direction + geometry) / 2)
        energies.append(float(torch.stack(values).mean()))
    share = [e / sum(energies) for e in energies]
    assert report["share"] == pytest.approx(share, rel=1e-3)
    assert report["entropy"] == pytest.approx(-sum(p * math.log(p) for p in share), rel=1e-5)
    assert report["max_entropy"] == pytest.approx(math.log(4))
    assert report["largest"] == {"layer": 1 + share.index(max(share)), "share": pytest.approx(max(share), rel=1e-3)}
    assert (report["step"], report["energy"], report["samples"]) == (2, "loss", 4)
    assert [r["step"] for r in report["steps"]] == [1, 2]


@pytest.mark.parametrize("energy", ENERGIES)
def test_each_energy_says_which_it_is(phf: Phf, run: Path, energy: str) -> None:
    done = phf("diagnose", run, "--energy", energy, "--plot", "layers.png")
    assert done.code == 0
    assert f"energy     {energy}:" in done.out
    assert (run.parent / "layers.png").read_bytes()[:4] == b"\x89PNG"
    one = phf("diagnose", run / "flows" / "step-000001.safetensors", "--energy", energy, "--json").json
    assert (one["step"], sum(one["share"])) == (1, pytest.approx(1))


def test_two_evaluations_side_by_side(phf: Phf, run: Path) -> None:
    for target in ("embedded", run):
        phf("eval", target, "--limit", 6, "--n", 2, "--quiet", "--engine", "transformers")
    done = phf("compare", "runs/embedded", run, "--json")
    rows, (pair,) = done.json["rows"], done.json["pairs"]
    assert [row["name"] for row in rows] == ["embedded", "run"]
    assert pair["difference"] == pytest.approx(rows[1]["average"] - rows[0]["average"])
    assert {"difference", "stderr", "low", "high", "p_value", "problems"} <= pair.keys()
    assert pair["low"] <= pair["difference"] <= pair["high"]
    done = phf("compare", "runs/embedded", run, "--plot", "compare.svg", "--markdown", "compare.md")
    assert done.code == 0
    assert "run - embedded" in done.out
    assert (run.parent / "compare.md").read_text().startswith("**Average@n in percent")
    assert "<svg" in (run.parent / "compare.svg").read_text()


def test_copies_of_a_bench_that_differ_are_not_compared(phf: Phf, run: Path) -> None:
    phf("eval", "embedded", "--limit", 6, "--n", 2, "--quiet", "--engine", "transformers")
    phf("eval", run, "--limit", 5, "--n", 2, "--quiet", "--engine", "transformers")
    done = phf("compare", "runs/embedded", run)
    assert done.code == 2
    assert "differ in rows" in done.err


def test_a_run_without_evaluations(phf: Phf, run: Path) -> None:
    done = phf("compare", run)
    assert done.code == 2
    assert f"run `phf eval {run}` first" in done.err


def test_a_name_is_shown_as_text(phf: Phf, run: Path) -> None:
    phf("eval", run, "--limit", 2, "--n", 1, "--quiet", "--engine", "transformers")
    summary = run / "evals/embedded-n1/summary.json"
    changed = json.loads(summary.read_text()) | {"target": "[red]x[/] \x1b[2J|"}
    summary.write_text(json.dumps(changed))
    done = phf("compare", run, "--markdown", "t.md")
    assert "[red]x[/]" in done.out
    assert "\x1b[2J" not in done.out
