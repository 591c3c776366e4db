"""Every family that users bring, tiny and random, through all that phf does with a model; `docs/models.md` shows it.

python tests/support/model_matrix.py docs/models.md [KIND ...]
"""

import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from families import FAMILIES, WINDOW, Family, write
from torch import Tensor
from trained import same_tensors

from phfcli.core.config import EvalConfig, LoraSettings, ModelSettings
from phfcli.core.evaluation.evaluator import evaluate
from phfcli.core.losses.divergence import divergence
from phfcli.core.losses.fused_divergence import fused_divergence
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.loading import load_model
from phfcli.core.models.lora import adapter_for_sampling, add_lora, check_round_trip
from phfcli.core.models.passes import Sample, collate, run_pass
from phfcli.core.models.trial import check_computation
from phfcli.core.rollouts.transformers import TransformersEngine
from phfcli.core.runs.folder import step_name
from phfcli.core.settings import option_source, resolve, set_sources
from phfcli.core.shipped_files import embedded_problems
from phfcli.core.training.ranks import ALONE
from phfcli.core.training.start import opened_run, start_trainer
from phfcli.core.types import Request, Sampling

HEADING = """# Models

{working} of {count} families work. `python tests/support/model_matrix.py docs/models.md` writes this page, and a test
compares it: each family is made tiny and random (four blocks), and put through what phf does with a model.

- round trip: an adapter is saved, read by PEFT, computes the same, and every module of it gets a gradient
- states, head: blocks, final norm and head as phf takes them against the model's own hidden states and logits
- fused = plain: the divergence from hidden states against that from the model's own logits, and both gradients
- padded = single: a padded batch against its samples one by one, in a pass and in sampling
- packed = eager: training (states and gradient) and sampling of several sequences, which begin alike and are longer
  than the family's window (16 tokens), against eager attention to one sequence at a time
- merged = not: the adapter folded into the weights, as sampling has it and as PEFT exports it
- train, resume: two steps of PHF, and bitwise the same from a checkpoint after the first
- eval: `phf eval` of that run

A model of another family is looked at in the same way before its first step: what differs is refused in one line.
vLLM on the CPU draws what `phi3` and `gemma2` predict under an adapter, to 1e-4 nats
(`tests/core/rollouts/test_vllm_families.py`).
"""
REFUSED = """## Refused

- Gemma 3n: its blocks give four streams instead of one hidden state for each token.
- RWKV, RecurrentGemma: they do not skip padding, so a prompt would draw other tokens beside longer ones.
- Zamba 2, xLSTM: modules of the adapter would get no gradient; `lora.target_modules` by hand may leave them out.
- Models with code of their own (`trust_remote_code`), weights as pickles, and a teacher or student whose files do not
  belong together.
"""

LORA = LoraSettings(r=4, alpha=8)
SMALL = ("batch_size=2", "micro_batch_size=2", "rollout.max_new_tokens=12", "steps=2", "checkpoint_every=1")
_CLOSE = {"rtol": 1e-3, "atol": 1e-4}
CPU = torch.device("cpu")
IDS = tuple(5 + 7 * i % 200 for i in range(200))
SAMPLES = [
    Sample(IDS[:3], IDS[50:59], IDS[90:96]),
    Sample(IDS[3:11], IDS[40:44], IDS[60:61]),
    Sample(IDS[9:10], IDS[50:80], IDS[30:42]),
]
LONG = [
    Sample(IDS[: 2 * WINDOW], None, IDS[60 : 60 + 2 * WINDOW]),
    Sample(IDS[: WINDOW + 4], None, IDS[90:101]),
    Sample(IDS[20 : 23 + WINDOW], None, IDS[120:150]),
    Sample(IDS[40:44], None, IDS[150:153]),  # within the window
]


@dataclass
class Row:
    """What came out for one family: a tick or the reason for each check, and what its adapter covers."""

    family: Family
    adapted: str = ""
    covered: float = 0.0
    left_out: tuple[str, ...] = ()
    checks: dict[str, str] = field(default_factory=dict)

    @property
    def works(self) -> bool:
        return set(self.checks.values()) == {"yes"}


def examine(family: Family, folder: Path) -> Row:
    """Makes the model and puts it through every check."""
    row = Row(family)
    write(family, folder / "model")
    model = _load(folder)
    summary = model.adapter
    assert summary is not None
    row.adapted, row.covered, row.left_out = ", ".join(summary.modules), summary.covered, summary.left_out
    for name, check in CHECKS.items():
        try:
            check(folder)
        except Exception as error:
            row.checks[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        else:
            row.checks[name] = "yes"
    return row


def _load(folder: Path, noise: float = 0.0) -> LanguageModel:
    """The model with an adapter that is not at its start."""
    base = load_model(ModelSettings(model=str(folder / "model"), device="cpu", dtype="float32"))
    model = add_lora(base, LORA, seed=0)
    with torch.no_grad():
        for p in model.trainable().values():
            p.add_(noise * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    model.network.eval()
    return model


def _round_trip(folder: Path) -> None:
    check_round_trip(_load(folder), IDS[:20])


def _states_and_head(folder: Path) -> None:
    check_computation(_load(folder, noise=0.1))


def _fused(folder: Path) -> None:
    """Of both readers' passes, against the logits of the model itself."""
    model = _load(folder, noise=0.1)
    batch = collate(SAMPLES, 4, model.description.pad_id, CPU)
    assert batch.teacher is not None
    passes = [run_pass(model, reader, batch, (1, 2)) for reader in (batch.student, batch.teacher)]
    fused = fused_divergence(
        passes[0].hidden, passes[1].hidden, passes[0].head, torch.ones(len(passes[0].hidden)), clip=0.05
    )
    logits = [_plain_logits(model, [list(p) for p in prompts]) for prompts in _prompts()]
    plain = divergence(logits[0], logits[1].detach(), clip=0.05).sum()
    torch.testing.assert_close(fused, plain, **_CLOSE)
    trained = list(model.trainable().values())
    got, wanted = (torch.autograd.grad(loss, trained) for loss in (fused, plain))
    torch.testing.assert_close(
        torch.cat([g.flatten() for g in got]), torch.cat([g.flatten() for g in wanted]), **_CLOSE
    )


def _prompts() -> tuple[list[object], list[object]]:
    return [s.student_prompt for s in SAMPLES], [s.teacher_prompt for s in SAMPLES]


def _plain_logits(model: LanguageModel, prompts: list[list[int]]) -> Tensor:
    """One sequence after the other, by the model's own forward."""
    found = []
    for prompt, sample in zip(prompts, SAMPLES, strict=True):
        ids = torch.tensor([[*prompt, *sample.completion]])
        found.append(model.causal(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1])
    return torch.cat(found)


@torch.no_grad()
def _padding(folder: Path) -> None:
    """A padded batch against its samples one by one: in a pass, and in sampling, which pads on the other side."""
    model = _load(folder, noise=0.1)
    together = collate(SAMPLES, 4, model.description.pad_id, CPU)
    passed, start = run_pass(model, together.student, together, (1, 3)), 0
    for row, sample in enumerate(SAMPLES):
        alone = collate([sample], 4, model.description.pad_id, CPU)
        single = run_pass(model, alone.student, alone, (1, 3))
        count, selected = len(sample.completion), int(alone.valid.sum())
        torch.testing.assert_close(passed.hidden[start : start + count], single.hidden, **_CLOSE)
        torch.testing.assert_close(passed.states[:, row, :selected], single.states[:, 0, :selected], **_CLOSE)
        start += count
    requests = [Request(tuple(s.student_prompt), seed) for seed, s in enumerate(SAMPLES)]
    engine, sampling = TransformersEngine(model), Sampling(max_new_tokens=6)
    drawn = dict(engine.sample(requests, sampling))
    for index, request in enumerate(requests):
        [(_, alone)] = engine.sample([request], sampling)
        assert alone.ids == drawn[index].ids, "a prompt draws other tokens beside others"
        torch.testing.assert_close(torch.tensor(alone.logprobs), torch.tensor(drawn[index].logprobs), **_CLOSE)
        sampled = torch.tensor([[*request.prompt_ids, *alone.ids]])
        logits = model.causal(input_ids=sampled, use_cache=False).logits[0, len(request.prompt_ids) - 1 : -1]
        own = logits.log_softmax(-1).gather(1, torch.tensor(alone.ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(alone.logprobs), own, **_CLOSE)


def _packing(folder: Path) -> None:
    """Together and by the fast paths, against eager attention to one sequence at a time."""
    model = _load(folder, noise=0.1)
    batch = collate(LONG, 4, model.description.pad_id, CPU)
    packed = run_pass(model, batch.student, batch, ()).hidden
    requests = [Request(tuple(s.student_prompt), seed) for seed, s in enumerate(LONG)]
    drawn = dict(TransformersEngine(model).sample(requests, Sampling(max_new_tokens=2 * WINDOW)))
    model.causal.set_attn_implementation("eager")
    alone = torch.cat([_states(model, s.student_prompt, s.completion) for s in LONG])
    torch.testing.assert_close(packed, alone, **_CLOSE)
    trained = list(model.trainable().values())
    got, wanted = (torch.autograd.grad(x.sin().sum(), trained, materialize_grads=True) for x in (packed, alone))
    difference, size = (torch.cat([g.flatten() for g in part]) for part in (got, wanted))
    assert (difference - size).norm() <= 1e-4 * size.norm(), "the gradient differs"
    with torch.no_grad():
        for index, request in enumerate(requests):
            states = _states(model, request.prompt_ids, drawn[index].ids)
            ids = torch.tensor(drawn[index].ids)[:, None]
            expected = model.output_head.logits(states).log_softmax(-1).gather(1, ids)[:, 0]
            torch.testing.assert_close(torch.tensor(drawn[index].logprobs), expected, **_CLOSE)


def _states(model: LanguageModel, prompt: Sequence[int], completion: Sequence[int]) -> Tensor:
    """The last hidden states of one sequence at the columns that predict its completion."""
    hidden: Tensor = model.backbone(input_ids=torch.tensor([[*prompt, *completion]]), use_cache=False).last_hidden_state
    return hidden[0, len(prompt) - 1 : -1]


@torch.no_grad()
def _merging(folder: Path) -> None:
    model = _load(folder, noise=0.1)
    ids = torch.tensor([IDS[:20]])
    own = model.causal(input_ids=ids, use_cache=False).logits
    with adapter_for_sampling(model):
        torch.testing.assert_close(model.causal(input_ids=ids, use_cache=False).logits, own, **_CLOSE)
    merge: Callable[[], torch.nn.Module] = model.network.merge_and_unload  # type: ignore[assignment]
    torch.testing.assert_close(merge()(input_ids=ids, use_cache=False).logits, own, **_CLOSE)


def _training(folder: Path) -> None:
    """Two steps, and the second one again from the checkpoint of the first: bitwise the same."""
    rows = embedded_problems("train").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "rows.jsonl").write_text("".join(rows[:8]), encoding="utf-8")
    _train(folder, "whole")
    shutil.copytree(folder / "whole", folder / "parts")
    shutil.rmtree(folder / "parts" / "checkpoints" / step_name(2))
    _train(folder, "parts")
    for name in ("adapter_model", "teacher", "optimizer"):
        file = Path("checkpoints") / step_name(2) / f"{name}.safetensors"
        assert same_tensors(folder / "whole" / file, folder / "parts" / file), f"{name} differs in a resumed run"


def _train(folder: Path, run: str) -> None:
    data = f"data={folder / 'rows.jsonl'}"
    sources = [
        *set_sources([f"model={folder / 'model'}", data, "device=cpu", *SMALL, "lora.r=4"]),
        option_source("--output-dir", "output_dir", str(folder / run)),
    ]
    with opened_run(sources, True, False, ALONE) as start:
        for step in start_trainer(start, ALONE, lambda _: None).train():
            assert step["grad_norm"] > 0


def _evaluation(folder: Path) -> None:
    config = resolve(EvalConfig, set_sources([f"model={folder / 'whole'}", "n=1", "limit=2", "max_new_tokens=6"]))
    config = config.model_copy(update={"engine": "transformers", "device": "cpu"})
    [summary] = evaluate(config, lambda _: None, lambda _: None, lambda _: None)
    assert summary["n"] == 1


CHECKS: dict[str, Callable[[Path], None]] = {
    "round trip": _round_trip,
    "states, head": _states_and_head,
    "fused = plain": _fused,
    "padded = single": _padding,
    "packed = eager": _packing,
    "merged = not": _merging,
    "train, resume": _training,
    "eval": _evaluation,
}


def run_matrix(kinds: Sequence[str] = (), tell: Callable[[str], None] = lambda _: None) -> list[Row]:
    """The rows of all families, or of some."""
    rows = []
    for family in FAMILIES:
        if not kinds or family.kind in kinds:
            started = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                rows.append(examine(family, Path(folder)))
            bad = {name: word for name, word in rows[-1].checks.items() if word != "yes"}
            tell(f"{family.kind:<14}{time.perf_counter() - started:6.1f} s  {bad or 'works'}\n")
    return rows


def as_markdown(rows: Sequence[Row]) -> str:
    """The page: a row for each family."""
    head = ["`model_type`", "models", "adapted", "of the blocks", *CHECKS]
    lines = [
        HEADING.format(working=sum(row.works for row in rows), count=len(rows)),
        _line(head),
        _line(["---"] * len(head)),
    ]
    notes: dict[str, list[str]] = {}
    for row in rows:
        lines.append(line_of(row))
        for sentence in row.left_out:
            notes.setdefault(sentence, []).append(f"`{row.family.kind}`")
    lines += ["", "## Not adapted", "", "Each is said at start, in `--dry-run` and in the manifest.", ""]
    lines += [f"- {sentence} ({', '.join(kinds)})" for sentence, kinds in notes.items()]
    return "\n".join([*lines, "", REFUSED])


def line_of(row: Row) -> str:
    """The row of one family in the page's table."""
    cells = [f"`{row.family.kind}`", row.family.stands_for, row.adapted, f"{100 * row.covered:.0f}%"]
    return _line([*cells, *row.checks.values()])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    path, *kinds = sys.argv[1:]
    warnings.filterwarnings("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    Path(path).write_text(as_markdown(run_matrix(kinds, sys.stderr.write)), encoding="utf-8")


if __name__ == "__main__":
    main()
