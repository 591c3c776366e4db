"""Writes the sample files beside it with the tools' own code: their forms, and the scores that they give.

Run in an environment of its own that has lm-eval 0.4.13, lighteval 0.13.0 (with latex2sympy2_extended 1.0.6) and
inspect_ai 0.3.285; no model and no network is needed, for the completions are given here:

    python tests/core/analysis/write_peer_files.py
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

FILES = Path(__file__).parent / "files"

# gold answers and what a model said: each is there for one thing on which graders differ
SAID = [
    ("204", "<think>\nIs it 7 or 17?\n</think>\nSo $m+n=204$ and the answer is $\\boxed{204}$."),
    ("1234", "That makes 1,234 in all.\n#### 1,234"),
    ("1/2", "The probability is $\\boxed{0.5}$"),
    ("7", "At first I took $\\boxed{7}$, but it is $\\boxed{8}$"),
    ("12", "The answer is 12."),
    ("73", "It ends in $\\boxed{073}$"),
    ("5", "<think>\nIt may be $\\boxed{5}$"),
    ("42", "I do not know."),
    ("12", "12"),
    ("20", "It is $\\boxed{20}$ for 3 reasons"),
]


def main(tool: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        {"lm-eval": lm_eval, "lighteval": lighteval, "inspect": inspect}[tool](Path(folder))


def lm_eval(folder: Path) -> None:
    """GSM8K's own task on local rows: samples_*.jsonl with both of its filters."""
    import yaml
    from lm_eval.api.model import LM
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    class Said(LM):
        """Answers each question with what was said."""

        def generate_until(self, requests: list[Any], **_: Any) -> list[str]:
            return [SAID[request.doc["number"]][1] for request in requests]

        def loglikelihood(self, requests: list[Any], **_: Any) -> list[Any]:
            raise NotImplementedError

        loglikelihood_rolling = loglikelihood

    import lm_eval

    own = Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml"
    task = yaml.safe_load(own.read_text())
    rows = folder / "rows.jsonl"
    written = [
        {"number": i, "question": f"Question {i}?", "answer": f"Some steps.\n#### {gold}"}
        for i, (gold, _) in enumerate(SAID)
    ]
    rows.write_text("".join(json.dumps(row) + "\n" for row in written))
    for key in ("dataset_name", "training_split", "fewshot_split", "tag", "task"):
        task.pop(key, None)
    task |= {"task": "gsm8k_local", "dataset_path": "json", "num_fewshot": 0, "test_split": "train"}
    task["dataset_kwargs"] = {"data_files": str(rows)}
    results = simple_evaluate(Said(), tasks=[task], task_manager=TaskManager(), log_samples=True, bootstrap_iters=0)
    samples = results["samples"]
    tracker = EvaluationTracker(output_path=str(folder / "out"))
    tracker.general_config_tracker.model_name_sanitized = "said"
    tracker.date_id = "2026-11-25"
    for name, own_samples in samples.items():
        tracker.save_results_samples(task_name=name, samples=own_samples)
    [made] = (folder / "out").rglob("samples_*.jsonl")
    shutil.copy(made, FILES / "samples_gsm8k.jsonl")


def lighteval(folder: Path) -> None:
    """The details of a task with the metrics of AIME, as a parquet file."""
    from lighteval.logging.evaluation_tracker import EvaluationTracker
    from lighteval.logging.info_loggers import DetailsLogger
    from lighteval.metrics.metrics import Metrics
    from lighteval.models.dummy.dummy_model import DummyModelConfig
    from lighteval.models.model_output import ModelResponse
    from lighteval.tasks.requests import Doc

    metric = Metrics.pass_at_k_math(sample_params={"k": 1, "n": 1})
    tracker = EvaluationTracker(output_dir=str(folder), save_details=True)
    tracker.general_config_logger.model_name = "said"
    tracker.general_config_logger.model_config = DummyModelConfig(model_name="said")
    for number, (gold, text) in enumerate(SAID):
        doc = Doc(task_name="aime24|0", query=f"Question {number}?", choices=[gold], gold_index=0, id=str(number))
        response = ModelResponse(text=[text], input_tokens=[], output_tokens=[[]])
        scores = {metric.metric_name: metric.compute_sample(doc=doc, model_response=response)}
        scores = {k: (v[k] if isinstance(v, dict) else v) for k, v in scores.items()}
        tracker.details_logger.details["aime24|0"].append(DetailsLogger.Detail(doc, response, scores))
    tracker.save()
    [made] = folder.rglob("details_*.parquet")
    shutil.copy(made, FILES / "details_aime24.parquet")


def inspect(folder: Path) -> None:
    """A log of three scorers of inspect_ai, as JSON and as .eval; its events, which are long, are left out."""
    from inspect_ai import Task, eval
    from inspect_ai.dataset import Sample
    from inspect_ai.log import read_eval_log, write_eval_log
    from inspect_ai.model import ModelAPI, ModelOutput, get_model
    from inspect_ai.scorer import exact, includes, match
    from inspect_ai.solver import generate

    async def count(_self: Any, text: Any, **_: Any) -> int:  # its own wants a table from the network
        return len(str(text))

    ModelAPI.count_text_tokens = count
    rows = [Sample(id=str(i), input=f"Question {i}?", target=gold) for i, (gold, _) in enumerate(SAID)]
    for form in ("json", "eval"):
        outputs = [ModelOutput.from_content("mockllm/model", text) for _, text in SAID]
        task = Task(rows, solver=generate(), scorer=[match(numeric=True), exact(), includes()], name="said")
        model = get_model("mockllm/model", custom_outputs=outputs)
        [log] = eval(
            task, model=model, log_dir=str(folder / form), log_format=form, display="none", max_samples=1,
            max_connections=1,
        )  # fmt: skip
        log = read_eval_log(log.location)
        for sample in log.samples or []:
            sample.events = []
        write_eval_log(log, str(FILES / f"inspect.{form}"), format=form)


if __name__ == "__main__":
    for chosen in sys.argv[1:] or ("lm-eval", "lighteval", "inspect"):
        main(chosen)
