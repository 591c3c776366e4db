"""phf eval: what it samples, that a stop loses nothing, and what it refuses to mix."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest

from phfcli.core.shipped_files import embedded_model
from phfcli.core.storage.schemas import without_seal

Phf = Callable[..., Any]

ENGINE = ("--engine", "transformers")
SMALL = ("--limit", 3, "--n", 2, "--quiet", *ENGINE)


def samples(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    return sorted(
        ({**line, "seconds": 0, "seal": ""} for line in lines), key=lambda line: (line["problem"], line["sample"])
    )


def test_the_json_of_an_evaluation(phf: Phf, tmp_path: Path) -> None:
    done = phf("eval", "embedded", "--limit", 8, "--n", 4, "--json", *ENGINE)
    assert done.code == 0
    (summary,) = done.json["benches"]
    assert {
        "bench", "n", "problems", "average", "stderr", "pass_at_k", "majority", "truncated", "no_answer",
        "grader_failures", "mean_tokens", "tokens_per_s",
    } <= summary.keys()  # fmt: skip
    folder = tmp_path / "runs" / "embedded" / "evals" / "embedded-n4"
    lines = samples(folder)
    assert len({(line["problem"], line["sample"]) for line in lines}) == len(lines) == 32
    assert summary["average"] == sum(line["status"] == "correct" for line in lines) / 32
    assert without_seal(json.loads((folder / "summary.json").read_text())) == summary
    for line in lines:
        assert line["text"].startswith("<think>")
        assert (line["status"] == "correct") == (line["answer"] == line["gold"])
    assert len({line["seed"] for line in lines}) == 32
    table = pandas.read_parquet(folder / "samples.parquet")
    for column in ("problem", "sample", "status", "answer", "gold", "tokens", "seed", "text"):
        assert sorted(table[column]) == sorted(line[column] for line in lines)
    assert table["correct"].mean() == summary["average"]
    again = phf("grade", folder / "samples.parquet", "--json")
    assert again.json["form"] == "phf"


def test_a_greedy_completion_of_each_problem_is_drawn_once(phf: Phf, tmp_path: Path) -> None:
    (summary,) = phf("eval", "embedded", *SMALL, "--json").json["benches"]
    folder = tmp_path / "runs" / "embedded" / "evals" / "embedded-n2"
    lines = [json.loads(line) for line in (folder / "greedy.jsonl").read_text().splitlines()]
    assert summary["greedy"] == sum(line["status"] == "correct" for line in lines) / summary["problems"]
    (alone,) = phf("eval", "embedded", *SMALL, "--temperature", 0, "--json").json["benches"]
    greedy = {line["problem"]: line["text"] for line in lines}
    drawn = samples(Path(alone["folder"]))
    assert all(greedy[line["problem"]] == line["text"] for line in drawn)
    assert alone["average"] == summary["greedy"]
    assert "greedy" not in alone  # the samples are
    before = (folder / "greedy.jsonl").read_bytes()
    assert phf("eval", "embedded", *SMALL, "--json").json["benches"][0]["greedy"] == summary["greedy"]
    assert (folder / "greedy.jsonl").read_bytes() == before
    (without,) = phf("eval", "embedded", *SMALL, "--no-greedy", "--output-dir", "x", "--json").json["benches"]
    assert "greedy" not in without
    assert not (Path(without["folder"]) / "greedy.jsonl").exists()


def test_a_sample_does_not_depend_on_what_is_sampled_beside_it(phf: Phf, tmp_path: Path) -> None:
    phf("eval", "embedded", *SMALL, "--output-dir", "some")
    phf("eval", "embedded", "--limit", 5, "--n", 3, "--quiet", "--output-dir", "more", *ENGINE)
    some, more = samples(tmp_path / "some/evals/embedded-n2"), samples(tmp_path / "more/evals/embedded-n3")
    texts = {(line["problem"], line["sample"]): line["text"] for line in more}
    assert all(texts[line["problem"], line["sample"]] == line["text"] for line in some)


def test_a_stopped_evaluation_goes_on_where_it_was(phf: Phf, tmp_path: Path) -> None:
    phf("eval", "embedded", *SMALL)
    folder = tmp_path / "runs" / "embedded" / "evals" / "embedded-n2"
    whole, summary = samples(folder), json.loads((folder / "summary.json").read_text())
    lines = (folder / "samples.jsonl").read_text().splitlines(keepends=True)
    (folder / "samples.jsonl").write_text("".join(lines[:2]) + lines[2][:40])
    (folder / "summary.json").unlink()
    again = phf("eval", "embedded", *SMALL, "--json").json["benches"][0]
    assert samples(folder) == whole
    assert again["average"] == summary["average"]
    before = (folder / "samples.jsonl").read_bytes()
    phf("eval", "embedded", *SMALL)
    assert (folder / "samples.jsonl").read_bytes() == before


@pytest.mark.slow
def test_other_sampling_settings_have_a_folder_of_their_own_and_other_rows_are_refused(
    phf: Phf, tmp_path: Path
) -> None:
    phf("eval", "embedded", *SMALL)
    path = tmp_path / "runs/embedded/evals/embedded-n2/samples.jsonl"
    before, made = path.read_bytes(), set[Path]()
    for option, value, name in (
        ("--temperature", 0.5, "t0.5-p0.95-k0-*-seed0-*"),
        ("--seed", 7, "t1-p0.95-k0-*-seed7-*"),
        ("--set", "prompt.thinking=false", "t1-p0.95-k0-*-seed0-*"),
    ):
        assert phf("eval", "embedded", *SMALL, option, value).code == 0
        assert path.read_bytes() == before
        [other] = set(path.parents[1].glob(f"embedded-n2+{name}")) - made
        assert len(samples(other)) == len(samples(path.parent))
        made.add(other)
    done = phf("eval", "embedded", *SMALL, "--limit", 4)
    assert done.code == 2
    assert "was sampled with bench_sha256" in done.err
    assert path.read_bytes() == before


@pytest.mark.slow
def test_a_target_is_the_same_however_it_is_spelt(phf: Phf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its own folder a checkpoint has once been evaluated without its run's prompts."""
    train = ("--steps", 2, "--checkpoint-every", 1, "--set", "batch_size=2", "--set", "prompt.student='Q: {problem}'")
    assert phf("train", *train, "--output-dir", "run", "--quiet").code == 0
    (tmp_path / "link").symlink_to("run/checkpoints/step-000001")
    checkpoints = tmp_path / "run/checkpoints"
    folders = set()
    for place, target in (
        (tmp_path, "run/checkpoints/step-000001/"),
        (tmp_path, "run/../run/checkpoints/./step-000001"),
        (tmp_path, "link"),
        (checkpoints, "step-000001"),
        (checkpoints / "step-000001", "."),
        (checkpoints / "step-000002", "../step-000001"),
    ):
        monkeypatch.chdir(place)
        [summary] = phf("eval", target, *SMALL, "--json").json["benches"]
        folders.add((place / summary["folder"]).resolve())
        assert (summary["target"], summary["step"]) == ("run", 1)
        settings = json.loads((place / summary["folder"] / "settings.json").read_text())
        assert settings["prompt"]["template"] == "Q: {problem}"
    assert folders == {tmp_path / "run/evals/step-000001/embedded-n2"}


@pytest.mark.slow
def test_more_training_does_not_stand_in_the_way_of_an_evaluation(phf: Phf, tmp_path: Path) -> None:
    train = ("train", "--output-dir", "run", "--set", "batch_size=2", "--quiet", "--resume")
    for steps in (1, 2):
        assert phf(*train, "--steps", steps).code == 0
        assert phf("eval", "run", *SMALL).code == 0
    [row] = phf("compare", "run", "--json").json["rows"]
    assert row["step"] == 2
    assert {path.parent.parent.name for path in tmp_path.glob("run/evals/*/*/summary.json")} == {
        "step-000001",
        "step-000002",
    }


@pytest.mark.slow
def test_a_run_a_checkpoint_an_adapter_and_a_model_are_accepted(phf: Phf, run: Path, tmp_path: Path) -> None:
    last, first = (run / "checkpoints" / f"step-00000{i}" for i in (2, 1))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (adapter / name).write_bytes((last / name).read_bytes())
    assert phf("eval", "run", *SMALL).code == 0
    assert phf("eval", first, *SMALL).code == 0
    assert phf("eval", adapter, *SMALL).code == 0
    assert phf("eval", embedded_model(), *SMALL).code == 0
    newest = samples(tmp_path / "run/evals/step-000002/embedded-n2")
    assert samples(tmp_path / "runs/adapter/evals/embedded-n2") == newest
    assert len(samples(tmp_path / "run/evals/step-000001/embedded-n2")) == 6
    assert len(samples(tmp_path / "runs/model/evals/embedded-n2")) == 6


@pytest.mark.slow
def test_a_run_on_a_local_model_is_found_from_another_folder(
    phf: Phf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(embedded_model(), tmp_path / "mine")
    small = ("--set", "batch_size=2", "--steps", 1, "--quiet")
    assert phf("train", "--config", "embedded", "--model", "mine", "--output-dir", "run", *small).code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert phf("eval", "../run", *SMALL).code == 0
    assert len(samples(tmp_path / "run/evals/step-000001/embedded-n2")) == 6


@pytest.mark.slow
def test_an_adapter_changes_what_is_sampled(phf: Phf, tmp_path: Path) -> None:
    train = ("--steps", 3, "--set", "optim.lr=0.02", "--set", "batch_size=4", "--set", "optim.max_grad_norm=1")
    phf("train", *train, "--output-dir", "run", "--quiet")
    phf("eval", "run", *SMALL)
    phf("eval", "embedded", *SMALL)
    trained, base = (
        samples(tmp_path / "run/evals/step-000003/embedded-n2"),
        samples(tmp_path / "runs/embedded/evals/embedded-n2"),
    )
    assert [line["text"] for line in trained] != [line["text"] for line in base]


def test_a_cut_completion_has_no_answer(phf: Phf, tmp_path: Path) -> None:
    summary = phf("eval", "embedded", *SMALL, "--max-new-tokens", 5, "--json").json["benches"][0]
    assert (summary["truncated"], summary["average"], summary["mean_tokens"]) == (6, 0, 5)
    assert {line["status"] for line in samples(tmp_path / "runs/embedded/evals/embedded-n2")} == {"truncated"}


def test_greedy_samples_are_all_the_same(phf: Phf, tmp_path: Path) -> None:
    phf("eval", "embedded", *SMALL, "--temperature", 0)
    lines = samples(tmp_path / "runs/embedded/evals/embedded-n2")
    assert [line["text"] for line in lines[::2]] == [line["text"] for line in lines[1::2]]


def test_a_bench_from_a_file_with_other_columns_and_a_bad_gold(phf: Phf, tmp_path: Path) -> None:
    rows = [{"q": "Start with 1, add 8.", "gold": "9", "id": "one"}, {"q": "x", "gold": "\\frac{", "id": "bad"}]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = ("--set", "columns.problem=q", "--set", "columns.answer=gold")
    done = phf("eval", "embedded", "--bench", "mine.jsonl", *columns, "--n", 2, "--json", *ENGINE)
    summary = done.json["benches"][0]
    assert (summary["bench"], summary["problems"], summary["unusable_golds"]) == ("mine", 1, ["bad"])
    assert "left out" in done.err


def test_a_wrong_base_model_is_refused_before_anything_is_loaded(phf: Phf, run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(embedded_model(), other)
    assert phf("eval", run, "--base", other, *SMALL).code == 0  # the same weights elsewhere
    (other / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes()[:-4] + b"\0\0\0\0")
    done = phf("eval", run, "--base", other, *SMALL)
    assert done.code == 2
    assert "was trained on embedded with sha256" in done.err
    assert "set base to the right model" in done.err
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "intermediate_size": 64}))
    done = phf("eval", run, "--base", other, *SMALL)
    assert done.code == 2
    assert "does not fit" in done.err


def test_the_benchmarks_are_listed(phf: Phf) -> None:
    listed = phf("eval", "--bench", "list")
    assert listed.code == 0
    for name in ("aime24", "aime25", "hmmt25", "math500", "amc23", "minerva", "gsm8k", "paper", "embedded-dev"):
        assert name in listed.out
    assert phf("eval", "--bench", "list", "--json").json["suites"]["paper"] == ["aime24", "aime25", "hmmt25"]


@pytest.mark.slow
def test_two_workers_draw_what_one_process_draws(phf: Phf, tmp_path: Path) -> None:
    few = ("--limit", 6, "--n", 3, "--quiet", *ENGINE)
    phf("eval", "embedded", *few, "--output-dir", "one")
    assert phf("eval", "embedded", *few, "--workers", 2, "--output-dir", "two").code == 0
    bench = "evals/embedded-n3"
    assert samples(tmp_path / "one" / bench) == samples(tmp_path / "two" / bench)
