"""The models of `benchmarks/bridge.py`, hardly pretrained: the commands that it then runs have tests of their own."""

import importlib.util
from pathlib import Path

from phfcli.core.models.description import load_description
from phfcli.core.models.token_alignment import same_tokens

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "bridge.py"


def test_it_makes_two_models_that_share_neither_width_nor_tokenizer(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("bridge_benchmark", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    for name in program.MODELS:
        program.make(name, tmp_path, share=0.0015)
    student, teacher = (load_description(str(tmp_path / name)) for name in ("student", "teacher"))
    assert (student.config.hidden_size, teacher.config.hidden_size) == (96, 128)
    assert not same_tokens(student.tokenizer, teacher.tokenizer)
    assert same_tokens(student.tokenizer, load_description("embedded").tokenizer)
    solution = "<think>\n37+8=45\n</think>"
    assert len(teacher.tokenizer.encode(solution)) == len(solution) > len(student.tokenizer.encode(solution))
