"""Every recipe can be run with a Qwen3 model: the dry run refuses what a start refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gpu_table import SIZES, config, row

from phfcli.core.shipped_files import embedded_model, recipes

Phf = Callable[..., Any]

SMALL = (256, 4, 4, 1024, True)  # the memory of a step is counted block by block, tile by tile: half of the time
OVERLAYS = sorted(name for name in recipes() if not name.startswith(("embedded", "qwen3")))


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The configs of the smallest model and of a much smaller one, beside a tokenizer of ours."""
    sizes = {"1.7b": SIZES["1.7b"], "small": SMALL}
    folders = {size: tmp_path_factory.mktemp(size) for size in sizes}
    for size, folder in folders.items():
        for path in (
            *embedded_model().glob("*token*"),
            embedded_model() / "chat_template.jinja",
        ):  # which has both modes
            shutil.copy(path, folder)
        (folder / "config.json").write_text(json.dumps(config(*sizes[size])))
    return folders


def dry_run(phf: Phf, model: Path, size: str, *overlay: str) -> None:
    options = ("--config", f"qwen3-{size}", *overlay, "--data", "embedded", "--model", model)
    done = phf("train", *options, "--dry-run", "--json")
    assert done.code == 0, done.err
    assert done.json["gaps"] == []
    assert done.json["settings"]["model"] == str(model)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_each_qwen3_model_has_a_recipe_whose_plan_is_in_the_guide(tmp_path: Path, size: str) -> None:
    guide = Path(__file__).parents[2] / "docs" / "guides" / "gpus.md"
    assert row(size, tmp_path) in guide.read_text().splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", OVERLAYS)
def test_a_recipe_runs_over_that_of_qwen3(phf: Phf, qwen3: dict[str, Path], recipe: str) -> None:
    dry_run(phf, qwen3["small"], "4b", "--config", recipe)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [name.removeprefix("embedded-") for name in recipes() if "embedded-" in name])
def test_a_recipe_that_has_a_form_for_the_embedded_model_runs_over_it(phf: Phf, recipe: str) -> None:
    done = phf("train", "--config", "embedded", "--config", recipe, "--dry-run", "--json")
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("flow.layers=[9,36]",), "flow.layers: 36 is beyond the model's 28 decoder blocks"),
        (("rollout.max_new_tokens=40960",), "tokens leave no room for a prompt in the model's context of 40960 tokens"),
        (("objective=oisd", "oisd.layer=28", "rollout.top_p=1", "rollout.top_k=0"), "oisd.layer: must lie below"),
        (("report_to=[wandb]",), "report_to: the package of wandb is not installed"),
        (("lora.target_modules=[wrong]",), "lora.target_modules"),
        (("sharding=fsdp",), "sharding: there is one process only"),
        (("evaluation.every=5", "evaluation.bench=nowhere"), "bench nowhere: neither a benchmark nor a file"),
        (("evaluation.patience=2",), "evaluation.patience"),
    ],
)
def test_a_dry_run_refuses_what_a_start_refuses(
    phf: Phf, qwen3: dict[str, Path], settings: tuple[str, ...], message: str
) -> None:
    sets = [word for pair in settings for word in ("--set", pair)]
    done = phf("train", "--model", qwen3["1.7b"], "--data", "embedded", *sets, "--dry-run")
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1
