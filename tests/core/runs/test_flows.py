"""Flows on disk and what is found in them: a perturbation that was planted is found where it was planted."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from phfcli.core.analysis.diagnose import LayerReport, diagnose_file, in_order
from phfcli.core.errors import UserError
from phfcli.core.names import ENERGIES, EnergyName
from phfcli.core.runs.flows import Flow, Rollout, open_flow, write_flow

L, B, M, D = 6, 3, 33, 16


def planted(layer: int | None = None, position: int | None = None, **changes: Tensor) -> Flow:
    """A teacher that is the student, but for noise at a layer, or at a position of every layer."""
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(L, B, M, D, generator=generator).cumsum(2)
    teacher = student.clone()
    noise = torch.randn(L, B, M, D, generator=generator)
    if layer is not None:
        teacher[layer] += noise[layer]
    if position is not None:
        teacher[:, :, position] += noise[:, :, position]
    parts = {"student": student, "teacher": teacher, "valid": torch.ones(B, M, dtype=torch.bool), **changes}
    positions = torch.arange(M).expand(B, M).clone()
    rollouts = [Rollout((1,), (1, 2), tuple(range(100, 100 + M))) for _ in range(B)]
    texts = {100 + i: f"t{i}" for i in range(M)}
    return Flow(positions=positions, layers=torch.arange(1, L + 1), rollouts=rollouts, texts=texts, **parts)


def report_of(flow: Flow, path: Path, energy: EnergyName = "loss") -> LayerReport:
    write_flow(path / "step-000007.safetensors", flow)
    return diagnose_file(path / "step-000007.safetensors", energy, parts=8)


@pytest.mark.parametrize("energy", ["loss", "direction", "geometry"])
@pytest.mark.parametrize("layer", [0, 3, 5])
def test_a_layer_that_was_perturbed_carries_the_energy(tmp_path: Path, energy: EnergyName, layer: int) -> None:
    report = report_of(planted(layer=layer), tmp_path, energy)
    assert report.largest == (layer + 1, pytest.approx(1, abs=1e-4))
    assert report.entropy == pytest.approx(0, abs=1e-2)
    cka = report.measures["cka"]
    assert [i for i, value in enumerate(cka) if value is not None and value < 0.9999] == [layer]
    adjacent = [i for i, value in enumerate(report.measures["adjacent"]) if value is not None and value > 1e-6]
    assert adjacent == [i for i in (layer - 1, layer) if 0 <= i < L - 1]


@pytest.mark.parametrize("energy", ["loss", "direction", "geometry"])
@pytest.mark.parametrize("position", [2, 17, 31])
def test_a_position_that_was_perturbed_is_found(tmp_path: Path, energy: EnergyName, position: int) -> None:
    report = report_of(planted(position=position), tmp_path, energy)
    assert report.largest_part == (position - 1) // 4  # 32 transitions in 8 parts; into it is the one before it
    assert report.share == pytest.approx([1 / L] * L, rel=0.5)  # over depth it is everywhere


def test_the_tokens_around_a_perturbed_position_lead(tmp_path: Path) -> None:
    texts = ["" if i != 17 else "here" for i in range(M)]
    flow = planted(position=17)
    five = [Rollout((1,), (2,), tuple(range(100, 100 + M)))] * B
    flow = Flow(**{**vars(flow), "rollouts": five, "texts": {100 + i: t for i, t in enumerate(texts)}})
    report = report_of(flow, tmp_path)
    assert report.tokens == []  # three transitions to each token are too few to list
    wide = {name: torch.cat([getattr(flow, name)] * 2, dim=1) for name in ("student", "teacher")}
    rows = {name: torch.cat([getattr(flow, name)] * 2) for name in ("positions", "valid")}
    report = report_of(Flow(**{**vars(flow), **wide, **rows, "rollouts": five * 2}), tmp_path)
    assert [token.text for token in report.tokens[:2] if token.text] == ["here"]
    assert report.tokens[0].transitions == 2 * B


def test_the_largest_transitions_are_the_students_own(tmp_path: Path) -> None:
    flow = planted()
    flow.student[4] *= 10
    assert report_of(flow, tmp_path, "transition").largest[0] == 5


@pytest.mark.parametrize("energy", ENERGIES)
def test_rollouts_of_different_length_count_alike(tmp_path: Path, energy: EnergyName) -> None:
    lengths = torch.tensor([M, 9, 1])
    ragged = planted(layer=2, valid=torch.arange(M) < lengths[:, None])
    report = report_of(ragged, tmp_path, energy)
    single = []
    for row, m in ((0, M), (1, 9)):
        cut = {name: getattr(ragged, name)[:, row : row + 1, :m] for name in ("student", "teacher")}
        flow = Flow(
            **cut,
            positions=torch.arange(m)[None],
            valid=torch.ones(1, m, dtype=torch.bool),
            layers=ragged.layers,
            rollouts=ragged.rollouts[:1],
            texts={},
        )
        single.append(report_of(flow, tmp_path, energy).energies)
    assert report.samples == 2
    assert report.energies == pytest.approx([(a + b) / 2 for a, b in zip(*single, strict=True)], abs=1e-9)


@pytest.mark.parametrize(("dtype", "within"), [(torch.bfloat16, 0.05), (torch.float16, 0.005)])
def test_compact_states_say_nearly_the_same(tmp_path: Path, dtype: torch.dtype, within: float) -> None:
    flow = planted(layer=1, position=9)
    full = report_of(flow, tmp_path)
    compact = report_of(replace(flow, student=flow.student.to(dtype), teacher=flow.teacher.to(dtype)), tmp_path)
    assert compact.energies == pytest.approx(full.energies, rel=within, abs=1e-4)


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    flow = planted(layer=1)
    report_of(flow, tmp_path)
    file = open_flow(tmp_path / "step-000007.safetensors")
    assert (file.step, file.layers, file.rollouts, file.texts) == (7, [1, 2, 3, 4, 5, 6], flow.rollouts, flow.texts)
    for index, walk in enumerate(file.rollout_states()):
        torch.testing.assert_close(walk.student, flow.student[:, index])
        torch.testing.assert_close(walk.teacher, flow.teacher[:, index])
        assert walk.tokens == list(range(100, 100 + M))


@pytest.mark.parametrize("fault", ["nan", "no transition", "equal"])
def test_flows_that_say_nothing_are_refused(tmp_path: Path, fault: str) -> None:
    flow = planted(layer=1)
    if fault == "nan":
        flow.teacher[0, 0, 0, 0] = torch.nan
    elif fault == "no transition":
        flow.valid[:, 1:] = False
    else:
        flow.teacher.copy_(flow.student * 0)
        flow.student.zero_()
    told = {"nan": "not finite", "no transition": "no share of loss", "equal": "no share of transition energy"}[fault]
    with pytest.raises(UserError, match=told):
        report_of(flow, tmp_path, "transition" if fault == "equal" else "loss")


def test_models_of_different_depth_are_not_put_together(tmp_path: Path) -> None:
    report = report_of(planted(layer=1), tmp_path)
    other = LayerReport(**{**vars(report), "layers": [1, 2]})
    with pytest.raises(UserError, match="different depth"):
        in_order([report, other])
