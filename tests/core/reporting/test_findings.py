"""What a report says first."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from evaluations import evaluation

from phfcli.core.analysis.compare import Comparison, compare
from phfcli.core.evaluation.saved_evaluations import load_evaluations
from phfcli.core.reporting.comparison_text import verdict
from phfcli.core.reporting.run_summaries import RunSummary


def comparison(folder: Path, **shares: Sequence[int]) -> Comparison:
    """Each run with so many of ten samples right on every problem, by name; a pattern repeats over 20 problems."""
    for name, pattern in shares.items():
        rows = {f"p{i}": [int(j < pattern[i % len(pattern)]) for j in range(10)] for i in range(20)}
        evaluation(folder / name, rows, config={"objective": name, "seed": 0})
    return compare(load_evaluations([str(folder / name) for name in shares], []))


def trained(name: str, alarms: Sequence[Mapping[str, str]] = ()) -> RunSummary:
    return RunSummary(name, Path(name), {}, {}, [{"step": 1}], [], [dict(alarm) for alarm in alarms])


def test_a_clear_difference_is_told_with_its_unit(tmp_path: Path) -> None:
    found = comparison(tmp_path, opsd=[2, 4], phf=[7, 8])
    scores, differences, health = verdict(found, [trained("opsd"), trained("phf")])
    assert scores == "Share of right samples: on aime phf 75.0 %, the rest 30.0 %."
    assert "phf is 45.0 points above opsd on aime (over problems), of 1 compared" in differences
    assert health == "No alarm was raised in training."


def test_runs_that_are_level_lead_together(tmp_path: Path) -> None:
    (scores, *_) = verdict(comparison(tmp_path, opsd=[2, 5], phf=[5, 2], sft=[1]), [trained("opsd")])
    assert scores == "Share of right samples: on aime phf and opsd 35.0 % each, the rest 10.0 %."
    (scores, *_) = verdict(comparison(tmp_path / "two", opsd=[2, 5], phf=[5, 2]), [trained("opsd")])
    assert scores == "Share of right samples: on aime phf and opsd 35.0 % each."


def test_arms_of_one_name_on_several_models_are_told_apart(tmp_path: Path) -> None:
    for model, share in (("small", 2), ("large", 8)):
        for objective, more in (("opsd", 0), ("phf", 1)):
            rows = {f"p{i}": [int(j < share + more) for j in range(10)] for i in range(20)}
            evaluation(tmp_path / model / objective, rows, model={"name": model})
    found = compare(load_evaluations([str(folder) for folder in sorted(tmp_path.glob("*/*"))], []))
    scores, differences = verdict(found, [])
    assert scores == "Share of right samples: on aime phf of large 90.0 %, the rest 20.0 % to 80.0 %."
    assert "phf of large is 10.0 points above opsd on aime (over problems)" in differences
    assert "phf of small is 10.0 points above opsd on aime (over problems)" in differences


def test_what_is_not_told_apart_is_said(tmp_path: Path) -> None:
    _, differences, _ = verdict(comparison(tmp_path, opsd=[2, 5], phf=[5, 2]), [trained("opsd")])
    assert differences.startswith("No two of them differ significantly")


def test_one_run_has_a_score_and_its_alarms(tmp_path: Path) -> None:
    alarm = {"alarm": "clip", "sentence": "the clip takes all"}
    told = verdict(comparison(tmp_path, phf=[5]), [trained("phf", [alarm, alarm])])
    assert told == ["Share of right samples: on aime phf 50.0 %.", "Alarms in training: phf (clip)."]


def test_an_evaluated_model_alone_says_nothing_of_training(tmp_path: Path) -> None:
    base = RunSummary("base", Path("base"), {}, {}, [], [])
    assert verdict(comparison(tmp_path, phf=[5]), [base]) == ["Share of right samples: on aime phf 50.0 %."]


def test_a_run_whose_rollouts_were_all_cut_is_named(tmp_path: Path) -> None:
    steps = [{"step": step, "truncated": 1.0} for step in (1, 2, 3)]
    run = RunSummary("phf", Path("phf"), {}, {}, steps, [])
    (_, health) = verdict(comparison(tmp_path, phf=[5]), [run])
    assert health.endswith("Nearly every rollout was cut by rollout.max_new_tokens in phf.")
