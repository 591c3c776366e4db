"""What several test modules share: a small random model and the embedded one."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from trained import train_and_evaluate
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from phfcli.core.config import LoraSettings, ModelSettings
from phfcli.core.models.description import load_description
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.loading import load_model
from phfcli.core.models.lora import add_lora

settings.register_profile("phf", deadline=None)  # a machine that others share may take any time for an example
settings.load_profile("phf")


# Files whose tests take minutes come first, so that two workers end at about the same time.
LONG = ("test_doctor.py", "test_docs.py", "test_train_ranks.py", "test_http_vllm.py", "test_model_matrix.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors are fastest on one thread, and its sums come in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def random_model() -> Callable[..., LanguageModel]:
    """A Qwen3 of three small blocks with random weights, in float64 so that orders of summation hardly matter."""

    def build(**changes: Any) -> LanguageModel:
        torch.manual_seed(0)
        embedded = load_description("embedded")
        sizes: dict[str, Any] = {
            "vocab_size": len(embedded.tokenizer),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 256,
            "tie_word_embeddings": True,
            "initializer_range": 0.3,
        }
        causal = Qwen3ForCausalLM(Qwen3Config(**sizes | changes)).double().eval()
        causal.generation_config = GenerationConfig(eos_token_id=sorted(embedded.eos_ids), pad_token_id=embedded.pad_id)
        return LanguageModel(causal, causal, replace(embedded, config=causal.config))

    return build


@pytest.fixture
def student(random_model: Callable[..., LanguageModel]) -> LanguageModel:
    """The random model with an adapter that is not at its initial zero."""
    model = add_lora(random_model(), LoraSettings(r=4, alpha=8), seed=1)
    with torch.no_grad():
        for p in model.trainable().values():
            p.copy_(0.1 * torch.randn_like(p))
    return model


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random model with another depth, width and tokenizer than the embedded one: bytes and merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), reverse=True)
    merges = [("4", "5"), ("1", "2"), ("t", "h"), ("\\", "b"), ("\\b", "o"), ("Ċ", "<")]
    vocabulary = [*alphabet, *("".join(pair) for pair in merges)]
    plain = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(vocabulary)}, merges=merges))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    plain.decoder = decoders.ByteLevel()
    plain.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    template = load_description("embedded").tokenizer.chat_template
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<|endoftext|>", eos_token="<|im_end|>", chat_template=template
    )
    torch.manual_seed(7)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.3,
        eos_token_id=tokenizer.eos_token_id,
    )
    folder = tmp_path_factory.mktemp("stranger")
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def embedded() -> LanguageModel:
    return load_model(ModelSettings(device="cpu"))


@pytest.fixture(scope="session")
def evaluated_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of PHF with a checkpoint of each, the last one evaluated; made once for all workers; read it only."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with FileLock(folder / "shared.lock"):
        if not (folder / "shared").exists():
            train_and_evaluate(folder / "making" / "run")
            (folder / "making").rename(folder / "shared")
    return folder / "shared" / "run"


@pytest.fixture
def run(evaluated_run: Path, tmp_path: Path) -> Path:
    """A copy of the trained and evaluated run, which a test may change."""
    return Path(shutil.copytree(evaluated_run, tmp_path / "run"))


@pytest.fixture
def problems_file(tmp_path: Path) -> Path:
    """Four problems of the embedded kind, as a user's own file."""
    rows = [
        {"problem": f"Start with {n}, add 8.", "solution": f"{n}+8={n + 8}. \\boxed{{{n + 8}}}", "answer": str(n + 8)}
        for n in (1, 12, 23, 34)
    ]
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system in memory that holds so much; for root in a container, `docker run --privileged`."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True, check=False)
