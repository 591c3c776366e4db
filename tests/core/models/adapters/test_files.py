"""Whether an adapter fits a model, told from its shapes alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from phfcli.core.config import LoraSettings
from phfcli.core.errors import UserError
from phfcli.core.models.adapters.files import check_adapter
from phfcli.core.models.adapters.lora import add_lora
from phfcli.core.models.description import load_description
from phfcli.core.models.language_model import LanguageModel


@pytest.fixture
def adapter(random_model: Callable[..., LanguageModel], tmp_path: Path) -> tuple[Path, LanguageModel]:
    model = add_lora(random_model(), LoraSettings(r=4, alpha=8), seed=0)
    model.network.save_pretrained(str(tmp_path), save_embedding_layers=False)
    return tmp_path, model


def test_an_adapter_fits_its_own_base(adapter: tuple[Path, LanguageModel]) -> None:
    folder, model = adapter
    check_adapter(folder, model.description)


def test_another_width_is_refused_with_the_layer_and_the_fix(adapter: tuple[Path, LanguageModel]) -> None:
    folder, _ = adapter
    with pytest.raises(UserError, match=r"does not fit embedded: model\.layers\.0.* --base"):
        check_adapter(folder, load_description("embedded"))


@pytest.mark.parametrize("change", [{"num_hidden_layers": 2}, {"intermediate_size": 64}, {"num_key_value_heads": 4}])
def test_another_depth_or_inner_width_is_refused(
    adapter: tuple[Path, LanguageModel], random_model: Callable[..., LanguageModel], change: dict[str, int]
) -> None:
    folder, model = adapter
    other = replace(model.description, config=random_model(**change).causal.config)
    with pytest.raises(UserError, match="does not fit"):
        check_adapter(folder, other)
