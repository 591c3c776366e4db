"""Grades code by its tests, in a sandbox of your own: phf eval MODEL --bench mine.jsonl --grader code_grader.py:passes

CODE_SANDBOX is the command that starts it and then reads a program from its input, such as
"docker run --rm -i --network none python:3.12 python -I -". phf itself runs nothing that a model wrote.
"""

import os
import re
import shlex
import subprocess


def passes(gold: str, completion: str) -> bool:
    """Whether the completion's last block of code passes the tests, which are the gold answer."""
    command = shlex.split(os.environ["CODE_SANDBOX"])
    blocks = re.findall(r"```(?:python)?\n(.*?)```", completion, re.DOTALL)
    if not blocks:
        return False
    return subprocess.run(command, input=f"{blocks[-1]}\n{gold}\n", text=True, timeout=60).returncode == 0
