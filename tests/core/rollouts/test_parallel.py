"""Several processes: the same completions as one engine, whichever of them dies on the way."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from phfcli.core.config import EvalConfig
from phfcli.core.errors import FaultError, UserError
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.prompts import Prompts
from phfcli.core.rollouts.engine import Serving
from phfcli.core.rollouts.parallel import ParallelEngine, split_by_prompt
from phfcli.core.rollouts.transformers import TransformersEngine
from phfcli.core.types import Request, Sampling

CONFIG = EvalConfig(engine="transformers", device="cpu")
SAMPLING = Sampling(max_new_tokens=64)
ENVIRONMENTS = [{"OMP_NUM_THREADS": "1"}] * 2


@pytest.fixture(scope="module")
def requests_(embedded: LanguageModel) -> list[Request]:
    prompts = Prompts(embedded.description.tokenizer)
    return [
        Request(tuple(prompts.student(f"Start with {p + 10}, add {p}, multiply by 2.")), seed=10 * p + i)
        for p in range(12)
        for i in range(3)
    ]


@pytest.fixture
def warnings_() -> list[str]:
    return []


@pytest.fixture
def engine(warnings_: list[str]) -> Iterator[ParallelEngine]:
    engine = ParallelEngine(CONFIG, Serving(CONFIG, length=512), ENVIRONMENTS, warnings_.append)
    yield engine
    engine.close()


def test_prompts_are_dealt_out_whole_and_each_request_once(requests_: list[Request]) -> None:
    shares = split_by_prompt(requests_, 5)
    assert sorted(index for share in shares for index in share) == list(range(len(requests_)))
    owners = [{requests_[index].prompt_ids for index in share} for share in shares]
    assert sum(map(len, owners)) == 12
    assert max(map(len, shares)) - min(map(len, shares)) <= 3


@pytest.mark.slow
def test_several_processes_draw_what_one_draws(
    engine: ParallelEngine, embedded: LanguageModel, requests_: list[Request]
) -> None:
    alone = {i: c.ids for i, c in TransformersEngine(embedded).sample(requests_, SAMPLING)}
    for _ in range(2):
        assert {i: c.ids for i, c in engine.sample(requests_, SAMPLING)} == alone
    assert engine.name == "transformers"


@pytest.mark.slow
def test_the_share_of_a_process_that_dies_is_taken_up(
    engine: ParallelEngine, requests_: list[Request], warnings_: list[str]
) -> None:
    whole = {i: c.ids for i, c in engine.sample(requests_, SAMPLING)}
    drawing = engine.sample(requests_, SAMPLING)
    index, completion = next(drawing)
    drawn = [(index, completion.ids)]
    os.kill(engine._shards[0].child.process.pid, signal.SIGKILL)
    drawn += [(i, c.ids) for i, c in drawing]
    assert sorted(i for i, _ in drawn) == list(range(len(requests_)))
    assert dict(drawn) == whole
    assert len(warnings_) <= 1  # none if it had already answered everything
    assert {i: c.ids for i, c in engine.sample(requests_, SAMPLING)} == whole


@pytest.mark.slow
def test_when_all_have_died_it_says_how_to_go_on(engine: ParallelEngine, requests_: list[Request]) -> None:
    for shard in engine._shards:
        shard.child.process.kill()
        shard.child.process.wait()
    with pytest.raises(FaultError, match="the same evaluation goes on"):
        list(engine.sample(requests_, SAMPLING))


@pytest.mark.slow
def test_a_process_that_refuses_to_start_says_why(tmp_path: Path, warnings_: list[str]) -> None:
    serving = Serving(CONFIG.model_copy(update={"model": str(tmp_path)}), length=512)
    with pytest.raises(UserError, match=r"no config\.json"):
        ParallelEngine(CONFIG, serving, ENVIRONMENTS[:1], warnings_.append)
