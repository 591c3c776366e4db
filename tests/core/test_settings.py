"""Settings: what lies over what, and what an error says."""

from pathlib import Path

import pytest
import yaml

from phfcli.core.config import TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.settings import (
    Source,
    file_sources,
    leaves,
    option_source,
    resolve,
    resolve_train,
    set_sources,
    write_yaml,
)
from phfcli.core.shipped_files import recipes
from phfcli.core.studies.study_file import Study


@pytest.mark.parametrize("name", sorted(recipes()))
def test_every_shipped_recipe_is_valid(name: str) -> None:
    assert resolve_train(file_sources([name])).steps == 100


def test_a_line_over_steps_is_one_value() -> None:
    first = option_source("a", "flow.alpha", {0: 1.0, 10: 0.0})
    second = set_sources(["flow.alpha={5: 2, 20: 0}"])
    config = resolve_train([first, *second])
    assert config.flow.alpha == {5: 2.0, 20: 0.0}  # no point of the first is left
    assert leaves(config.model_dump())["flow.alpha"] == {5: 2.0, 20: 0.0}
    assert resolve(TrainConfig, [Source("file", yaml.safe_load(write_yaml(config)))]) == config
    assert resolve_train([first, *set_sources(["flow.alpha=0.5"])]).flow.alpha == 0.5


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("{0: 1, ten: 0}", "flow.alpha: must be a number, or a line over steps such as {0: 1.0, 10: 0.0}"),
        ("{0: 1, 10: -1}", "flow.alpha: must be greater than or equal to 0"),
        ("{}", "flow.alpha: must be a number, or a line"),
        ("{-1: 1}", "flow.alpha: must be a number, or a line"),
        (".inf", "flow.alpha: must be a number, or a line"),
        ("yes", "flow.alpha: must be a number, or a line"),
        ("-0.5", "flow.alpha: must be greater than or equal to 0, got -0.5"),
    ],
)
def test_a_line_that_is_none_is_refused(given: str, told: str) -> None:
    with pytest.raises(UserError) as error:
        resolve_train(set_sources([f"flow.alpha={given}"]))
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("size", "clip"), [("1.7b", 0.05), ("4b", 0.05), ("8b", 0.06)])
def test_qwen3_recipes_are_the_published_table(size: str, clip: float) -> None:
    config = resolve_train(file_sources([f"qwen3-{size}"]))
    assert config.model == f"Qwen/Qwen3-{size.upper()}"
    assert (config.lora.r, config.lora.alpha, len(config.lora.target_modules)) == (64, 128, 7)
    assert (config.optim.lr, config.optim.max_grad_norm, config.optim.horizon_epochs) == (5e-6, 0.1, 30)
    assert (config.steps, config.batch_size) == (100, 32)
    rollout = config.rollout
    assert (rollout.max_new_tokens, rollout.temperature, rollout.top_p, rollout.top_k) == (1024, 1.1, 0.95, 20)
    assert (config.divergence.kind, config.divergence.beta, config.divergence.clip) == ("jsd", 0.5, clip)
    assert (config.flow.alpha, config.flow.positions, config.flow.layers) == (0.05, 128, None)
    assert (config.teacher.kind, config.teacher.decay) == ("ema", 0.999)


def test_without_options_the_embedded_recipe_is_taken() -> None:
    config = resolve_train([])
    assert (config.model, config.data, config.objective) == ("embedded", "embedded", "phf")
    assert config.optim.lr == 3e-4


def test_the_recipe_of_the_model_lies_under_everything_else(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("optim: {lr: 1.0e-3}\nsteps: 7\n")
    sources = [*file_sources([str(file)]), *set_sources(["steps=8"]), option_source("--steps", "steps", 9)]
    config = resolve_train([option_source("--model", "model", "Qwen/Qwen3-8B"), *sources])
    assert (config.optim.lr, config.steps, config.divergence.clip) == (1e-3, 9, 0.06)


def test_the_recipe_of_the_objective_lies_over_that_of_the_model() -> None:
    grpo = option_source("--objective", "objective", "grpo")
    config = resolve_train([grpo])
    assert config.batch_size * config.grpo.group_size == 32
    assert (config.rollout.top_p, config.rollout.top_k, config.rollout.max_new_tokens) == (1, 0, 96)
    assert config.optim.lr == 3e-4  # the model's
    assert resolve_train([option_source("--objective", "objective", "sft")]).optim.lr == 1e-3  # of embedded-sft
    large = resolve_train([option_source("--model", "model", "Qwen/Qwen3-4B"), grpo])
    assert (large.optim.lr, large.batch_size, large.rollout.top_p) == (5e-6, 4, 1)
    assert resolve_train([grpo, *set_sources(["batch_size=8"])]).batch_size == 8
    assert resolve_train(file_sources(["qwen3-8b", "grpo"])) == resolve_train(
        [option_source("--model", "model", "Qwen/Qwen3-8B"), grpo]
    )


@pytest.mark.parametrize(
    ("given", "clip"),
    [
        (["divergence.kind=forward_kl"], None),  # that of the model's recipe is of jsd
        (["divergence.clip=0.1", "divergence.kind=reverse_kl"], 0.1),
        (["divergence.kind=reverse_kl", "divergence.clip=0.1"], 0.1),
        (["divergence={kind: forward_kl, clip: 0.05}"], 0.05),  # as runs of earlier versions have it
        (["divergence.kind=jsd"], 0.06),
        (["divergence.kind=forward_kl", "divergence.kind=jsd"], 0.06),
        (["divergence.clip.forward_kl=0.02", "divergence.kind=forward_kl"], 0.02),
        (["divergence.clip.forward_kl=0.02", "divergence.kind=reverse_kl"], None),
        (["divergence.clip.jsd=null"], None),
    ],
)
def test_a_clip_by_kind_is_of_its_kind_and_a_number_of_any(given: list[str], clip: float | None) -> None:
    config = resolve_train([*file_sources(["qwen3-8b"]), *set_sources(given)])
    assert config.divergence.clip == clip
    assert TrainConfig.model_validate(yaml.safe_load(write_yaml(config))) == config


@pytest.mark.parametrize("layers", ["[0%]", "[101%]", "[0.0%]", "[half]", "[0.5]", "[0]"])
def test_layers_are_blocks_or_shares_of_the_depth(layers: str) -> None:
    with pytest.raises(UserError, match="a block is its number, 1 is the first, or a share"):
        resolve_train(set_sources([f"flow.layers={layers}"]))


def test_an_unknown_model_gets_the_published_defaults() -> None:
    config = resolve_train([option_source("--model", "model", "someone/else")])
    assert (config.optim.lr, config.data) == (5e-6, "siyanzhao/Openthoughts_math_30k_opsd")


def test_written_settings_read_back_the_same() -> None:
    config = resolve_train(file_sources(["qwen3-4b", "selected-layers"]))
    tree = yaml.safe_load(write_yaml(config))
    assert TrainConfig.model_validate(tree) == config


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("optim.lrr=1", "optim.lrr: unknown key; did you mean 'lr'?"),
        ("modle=x", "modle: unknown key; did you mean 'model'?"),
        ("objective=gpro", "objective: 'gpro' is unknown; did you mean 'grpo'?"),
        ("objective=opds", "objective: 'opds' is unknown; did you mean 'opsd'?"),
        ("steps=0", "steps: must be greater than 0, got 0"),
        ("teacher.decay=often", "teacher.decay: must be a valid number"),
        ("flow.layers=[0]", "flow.layers"),
        ("steps", "steps: expected KEY=VALUE"),
        ("optim=[", "optim line 1: not valid YAML"),
    ],
)
def test_a_bad_pair_names_its_key_and_the_fix(pair: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve_train(set_sources([pair]))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count(f"{pair.partition('=')[2]!r}") < 2  # what was given is told once


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim: {learning_rate: 1}", "optim.learning_rate: unknown key"),
        ("- a list", "expected keys and values"),
        ("a: [", "line 2: not valid YAML"),
        ("", "expected keys and values"),
        ("model: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text + "\n")
    with pytest.raises(UserError, match=r"bad\.yaml") as caught:
        resolve_train(file_sources([str(file)]))
    assert message in str(caught.value)


def test_an_unknown_recipe_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'qwen3-4b'"):
        file_sources(["qwen-4b"])


def test_settings_do_not_change_after_loading() -> None:
    config = resolve(TrainConfig, [])
    with pytest.raises(ValueError, match="frozen"):
        config.steps = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("key", "typed", "read"),
    [
        ("prompt.student", "Solve this: {problem}", "Solve this: {problem}"),
        ("prompt.teacher", "Q: {problem} A: {solution}", "Q: {problem} A: {solution}"),
        ("teacher.context", "{hint}", "{hint}"),
        ("output_dir", "2026-11-25", "2026-11-25"),
        ("model", "4", "4"),
        ("data", "'quoted: text'", "quoted: text"),
        ("prompt.chat_template", "null", None),
        ("engine", "on", "on"),  # of an evaluation
        ("divergence.clip", "null", None),
        ("flow.layers", "[1, 50%]", [1, "50%"]),
        ("report_to", "[wandb]", ["wandb"]),
        ("bench", "[aime24, aime25]", ["aime24", "aime25"]),
        ("steps", "3", 3),
    ],
)
def test_text_is_taken_as_it_is_typed(key: str, typed: str, read: object) -> None:
    [source] = set_sources([f"{key}={typed}"])
    assert leaves(source.tree) == {key: read}


def test_a_missing_key_names_its_file() -> None:
    with pytest.raises(UserError, match=r"^s\.yaml: title: Field required"):
        resolve(Study, [Source("s.yaml", {"systems": {}})])


@pytest.mark.parametrize("betas", ["[1, 0.9]", "[0.9, 1]"])
def test_an_average_that_never_moves_is_refused(betas: str) -> None:
    with pytest.raises(UserError, match=r"^optim.betas: .*less than 1"):
        resolve_train(set_sources([f"optim.betas={betas}"]))
