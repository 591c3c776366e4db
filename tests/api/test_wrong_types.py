"""A value of a wrong type is answered with one sentence that names the argument, wherever it is given."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import phfcli as phf
from phfcli.core.config import ModelSettings
from phfcli.core.errors import UserError
from phfcli.core.models.loading import load_model
from phfcli.grading import Grader

ITSELF: dict[str, Any] = {}
ITSELF["lora"] = ITSELF
HERE = Path()

CALLS: list[tuple[str, Callable[[], object]]] = [
    *[("runs", lambda value=value: phf.diagnose(value)) for value in (5, None, 1.5, b"x", {}, object())],
    *[("runs", lambda value=value: phf.diagnose(value)) for value in ([5], [None], ["x", 5])],
    *[("energy", lambda value=value: phf.diagnose("x", value)) for value in (5, None, ["loss"])],
    *[("steps", lambda value=value: phf.diagnose("x", steps=value)) for value in (5, "all", [None], [[1]])],
    *[("parts", lambda value=value: phf.diagnose("x", parts=value)) for value in (None, [16], {})],
    *[("folder", lambda value=value: phf.load_run(value)) for value in (5, None, [], b"run", {"run": 1})],
    *[("folders", lambda value=value: phf.Evaluation.load(value)) for value in (5, None, ["x"])],
    *[("target", lambda value=value: phf.evaluate(value)) for value in (5, None, ["x"], object())],
    *[("bench", lambda value=value: phf.evaluate("x", bench=value)) for value in (5, [5], {"a": 1}, object())],
    *[("devices", lambda value=value: phf.evaluate("embedded", devices=value)) for value in (5, "0", [0])],
    *[("n", lambda value=value: phf.evaluate("embedded", n=value)) for value in ([1], {}, object())],
    *[("engine", lambda value=value: phf.evaluate("embedded", engine=value)) for value in (5, ["vllm"])],
    *[("config", lambda value=value: phf.evaluate("embedded", config=value)) for value in (5, object(), [5])],
    *[("progress", lambda value=value: phf.evaluate("embedded", progress=value)) for value in (None, "no")],
    *[("model", lambda value=value: phf.train(model=value)) for value in (5, ["x"], b"x")],
    *[("config", lambda value=value: phf.train(config=value)) for value in (5, None, [None], object())],
    *[("on_step", lambda value=value: phf.train(on_step=value)) for value in (5, "print")],
    *[("resume", lambda value=value: phf.train(resume=value)) for value in (None, [1])],
    *[("report_to", lambda value=value: phf.train(report_to=value)) for value in (5, [5])],
    *[("evaluated", lambda value=value: phf.compare(value)) for value in (5, None, [5], [None], {"a": 5})],
    *[("bench", lambda value=value: phf.compare(["x"], bench=value)) for value in (5, [5])],
    *[("view", lambda value=value: phf.compare(["x"], view=value)) for value in (5, None)],
    *[("unit", lambda value=value: phf.compare(["x"], unit=value)) for value in (5, ["seeds"])],
    *[("pairs", lambda value=value: Grader(1).grade(value)) for value in (None, 5, "7", [("7",)], [7], [("7", None)])],
    *[
        (name, lambda name=name: phf.train(config={name: 10**400}))
        for name in ("steps", "seed", "optim.lr", "flow.alpha")
    ],
    ("in a list: write ['a']", lambda: phf.compare("a")),  # type: ignore[arg-type]
    ("an argument contains itself", lambda: phf.train(config=ITSELF)),
    ("an argument contains itself", lambda: phf.evaluate("embedded", config=ITSELF)),
    ("folder", lambda: phf.Run(5)),  # type: ignore[arg-type]
    ("folders", lambda: phf.Evaluation.load()),
    ("folder", lambda: phf.load_run("a\0b")),
    ("target", lambda: phf.evaluate("a\0b")),
    ("output_dir", lambda: phf.train(output_dir="a\0b")),
    ("too long", lambda: phf.load_run("x" * 5000)),
    ("name", lambda: phf.register_objective(5, print)),
    ("build", lambda: phf.register_engine("mine", None)),
    ("rows", lambda: phf.register_benchmark("mine", [{"problem": "1", "answer": "1"}])),
]


def test_one_sentence_names_the_argument(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = []
    for number, (name, call) in enumerate(CALLS):
        try:
            call()
            wrong.append((number, name, "no error"))
        except UserError as error:
            if name not in str(error) or "\n" in str(error):
                wrong.append((number, name, str(error)))
        except Exception as error:
            wrong.append((number, name, repr(error)))
    assert wrong == []
    assert list(tmp_path.iterdir()) == []


def test_models_load_in_several_threads_at_once() -> None:
    failures: list[BaseException] = []

    def load() -> None:
        try:
            for _ in range(3):
                load_model(ModelSettings(device="cpu"))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    load_model(ModelSettings(device="cpu"))
