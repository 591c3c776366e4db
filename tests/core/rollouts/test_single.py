"""A model whose prompts draw other tokens when they are padded is refused before it samples."""

from typing import Any

import pytest
from families import Family, build, family

from phfcli.core.errors import UserError
from phfcli.core.models.description import load_description
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.rollouts.single import check_sampling


def model(causal: Any) -> LanguageModel:
    return LanguageModel(causal, causal, load_description("embedded"))


@pytest.mark.parametrize("kind", ["qwen3", "gpt2", "opt", "mamba2", "lfm2", "gemma3"])
def test_models_that_skip_padding_pass(kind: str) -> None:
    check_sampling(model(build(family(kind))))


@pytest.mark.filterwarnings("ignore")  # of its own code in transformers
def test_a_model_that_reads_its_padding_is_refused() -> None:
    rwkv = Family("rwkv", "RWKV", {"attention_hidden_size": 32})
    with pytest.raises(UserError, match=r"^embedded: RwkvForCausalLM samples other tokens for a padded prompt"):
        check_sampling(model(build(rwkv)))


def test_a_model_that_cannot_be_sampled_from_in_a_batch_is_refused() -> None:
    causal: Any = build(family("lfm2"))  # convolutions cannot read samples that are packed in a row

    def fail(_module: Any, _args: Any, options: Any) -> None:
        if len(options["input_ids"]) > 1:
            raise ValueError("one at a time\nplease")

    causal.model.register_forward_pre_hook(fail, with_kwargs=True)
    with pytest.raises(UserError, match=r"^embedded: transformers cannot sample from Lfm2ForCausalLM .*one at a time$"):
        check_sampling(model(causal))
