"""A run of version 0.2 is read, resumed, diagnosed and compared; a removed setting is dropped or named."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Done
from trained import checkpoint_steps

from phfcli.core import retired
from phfcli.core.config import EvalConfig, TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.runs.folder import model_identity, recorded_config
from phfcli.core.settings import leaves
from phfcli.core.studies.record import read_record
from phfcli.core.studies.study_file import StudyRun, load_study, runs_of

ROOT = Path(__file__).parents[2]
EMBEDDED_THEN = "fec0d825cf13cb22ee77e49cb546d0cd0a2dda8b6cdae42a1366a508043eec0d"
RECORDED = ("objectives", "smollm2")  # the studies whose records are kept with the code


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A run of two steps that version 0.2 made, with its evaluation, as if it had begun from today's embedded model."""
    run = Path(shutil.copytree(ROOT / "tests" / "support" / "run-0.2", tmp_path / "old"))
    for file in (run / "manifest.json", *run.glob("evals/*/*/settings.json")):
        file.write_text(file.read_text().replace(EMBEDDED_THEN, model_identity("embedded")["sha256"]))
    return run


@pytest.fixture
def removed(monkeypatch: pytest.MonkeyPatch, old: Path) -> Path:
    """The config.yaml of the run, with a setting that was removed, at its old default of 3."""
    monkeypatch.setitem(retired.RETIRED, "flow.gone", 3)
    config = old / "config.yaml"
    config.write_text(config.read_text().replace("flow:\n", "flow:\n  gone: 3\n"))
    return config


def test_its_settings_are_read(old: Path) -> None:
    config = recorded_config(old)
    assert (config.batch_size, config.flow.positions, config.lora.target_modules) == (4, 8, ("q_proj", "v_proj"))


def test_a_removed_setting_at_its_default_is_dropped(removed: Path) -> None:
    assert recorded_config(removed.parent).flow.positions == 8


def test_a_removed_setting_at_another_value_is_named_in_one_line(removed: Path) -> None:
    removed.write_text(removed.read_text().replace("gone: 3", "gone: 4"))
    with pytest.raises(UserError) as told:
        recorded_config(removed.parent)
    assert str(told.value) == (
        f"{removed}: flow.gone: 4 was set, and the setting was removed after version 0.2; use phfcli 0.2 for this file"
    )


def test_a_section_that_holds_removed_settings_alone_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(retired.RETIRED, "gone.one", 1)
    assert retired.without_retired({"gone": {"one": 1}, "vllm": {}}, "config.yaml") == {"vllm": {}}


def test_a_removed_value_is_named_in_one_line(old: Path) -> None:
    config = old / "config.yaml"
    config.write_text(config.read_text().replace("weights: uniform", "weights: forks"))
    with pytest.raises(UserError, match=r"config.yaml: weights: 'forks' was removed after version 0.2; use phfcli 0.2"):
        recorded_config(old)


@pytest.mark.parametrize("given", ["--set", "--config"])
def test_new_input_may_not_set_it(given: str, removed: Path, phf: Callable[..., Done]) -> None:
    done = phf("train", "--dry-run", given, "flow.gone=3" if given == "--set" else removed)
    assert done.code == 2
    assert "flow.gone: was removed after version 0.2; leave it out" in done.err


def test_no_setting_of_today_is_taken_for_a_removed_one() -> None:
    known = leaves(TrainConfig().model_dump(mode="json")) | leaves(EvalConfig().model_dump(mode="json"))
    assert not set(known) & set(retired.RETIRED)


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize("command", [("runs", "."), ("verify", "old"), ("config", "diff", "old", "embedded")])
def test_other_commands_read_it(command: tuple[str, ...], phf: Callable[..., Done]) -> None:
    assert phf(*command).code == 0


def test_its_flows_are_diagnosed(old: Path, phf: Callable[..., Done]) -> None:
    done = phf("diagnose", old, "--json")
    assert done.code == 0, done.err


@pytest.mark.slow
def test_it_goes_on_and_is_compared_with_what_it_was(old: Path, phf: Callable[..., Done]) -> None:
    shutil.copytree(old, "as-it-was")
    done = phf("train", "--resume", "--output-dir", "old", "--steps", 3, "--quiet")
    assert done.code == 0, done.err
    assert checkpoint_steps(old) == [2, 3]
    done = phf("eval", old, "--limit", 4, "--n", 2, "--quiet")
    assert done.code == 0, done.err
    done = phf("compare", "as-it-was", "old", "--json")
    assert done.code == 0, done.err


@pytest.mark.slow
@pytest.mark.parametrize("study", RECORDED)
def test_the_records_of_a_study_are_read(study: str, phf: Callable[..., Done], tmp_path: Path) -> None:
    for part in ("studies", "docs/studies", "docs/study-real"):
        shutil.copytree(ROOT / part, tmp_path / part)
    done = phf("study", f"studies/{study}.yaml", "--report-only")
    assert done.code == 0, done.err


def test_a_record_with_a_removed_setting_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    runs = runs_of(load_study(ROOT / "studies" / "objectives.yaml"))
    run = next(run for run in runs if run.trains and run.record.is_file())
    own = tmp_path / "record.json"
    own.write_text(run.record.read_text().replace('"settings": {', '"settings": {"gone": 3, ', 1))
    monkeypatch.setitem(retired.RETIRED, "gone", 3)
    monkeypatch.setattr(StudyRun, "record", own)
    assert read_record(run) is not None
