"""vLLM beside the trainer."""

from collections.abc import Iterator

from phfcli.core.doctor.finding import Finding, failed, ok
from phfcli.core.doctor.program import Program, metrics_of

_SAMPLING_GAP = 0.1  # nats
_START_S = 240.0  # beside other work vLLM alone took 156 s


def vllm(program: Program) -> Iterator[Finding]:
    """vLLM starts, follows another adapter, and its log-probabilities are the trainer's."""
    run = program.folder / "vllm"
    options = ["--objective", "grpo", "--steps", "2", "--engine", "vllm", "--set", "batch_size=2", "--quiet"]
    words = ["train", *options, "--set", "rollout.max_new_tokens=48", "--output-dir", str(run)]
    outcome = program.run(words, extra_s=_START_S)
    if not outcome.done:
        fix = "train and evaluate with --engine transformers, or install the vLLM that fits this torch"
        yield failed("vLLM", outcome.why, fix)
        return
    lines = metrics_of(run)
    yield ok("vLLM", f"starts, and follows another adapter and back; {outcome.seconds:.0f} s in all")
    gap = max(line.get("engine_gap", 0.0) for line in lines)
    if gap > _SAMPLING_GAP:
        fix = "its probabilities are not the trainer's: use --engine transformers, or the same dtype in both"
        yield failed("vLLM log-probabilities", f"{gap:.3g} nats from the trainer's", fix, engine_gap=gap)
    else:
        yield ok("vLLM log-probabilities", f"at most {gap:.2g} nats from the trainer's, on average", engine_gap=gap)
