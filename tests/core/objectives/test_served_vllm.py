"""The teacher on a real vLLM server reads what transformers reads, whatever the server has read before."""

from collections.abc import Iterator

import pytest
import torch
from vllm_server import NEEDS_VLLM, VllmServer, vllm_server

from phfcli.core.config import TrainConfig
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import Batch, Sample, collate
from phfcli.core.objectives.other_teachers import load_external
from phfcli.core.shipped_files import embedded_model

pytestmark = NEEDS_VLLM

FLAGS = ["--runner=pooling", '--pooler-config={"task": "token_embed", "use_activation": false}']
CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # of states of up to 4, in float32


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    with vllm_server(embedded_model(), tmp_path_factory.mktemp("server"), FLAGS) as server:
        yield server


def config(server: str | None) -> TrainConfig:
    teacher = {"kind": "external", "model": "embedded", "server": server}
    return TrainConfig.model_validate({"device": "cpu", "teacher": teacher})


def batch(lengths: list[int]) -> Batch:
    """Prompts that begin alike, which a prefix cache finds, and completions of those lengths."""
    draw = torch.Generator().manual_seed(0)
    prompt = torch.randint(0, 250, (200,), generator=draw).tolist()
    completions = [torch.randint(0, 250, (length,), generator=draw).tolist() for length in lengths]
    samples = [Sample(prompt[: 200 - n], prompt[: 200 - n], ids) for n, ids in enumerate(completions)]
    return collate(samples, 16, 0, torch.device("cpu"))


def test_outputs_and_last_states_are_those_of_transformers(server: VllmServer, embedded: LanguageModel) -> None:
    served, local = (load_external(config(url), embedded.description) for url in (server.url, None))
    assert served.context == 512
    for lengths in ([1, 7, 300, 40], [300, 300], [2] * 20, [300, 300]):
        some = batch(lengths)
        got, want = (reader.run_pass(embedded, some, (4,)) for reader in (served, local))
        torch.testing.assert_close(got.hidden, want.hidden, **CLOSE)
        assert got.final is not None
        assert want.final is not None
        torch.testing.assert_close(got.final[some.valid], want.final[some.valid], **CLOSE)
        likely = [read.head.logits(read.hidden).log_softmax(-1) for read in (got, want)]
        torch.testing.assert_close(*likely, **CLOSE)
