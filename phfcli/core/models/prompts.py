"""Every prompt of the project is rendered here, so that student, teacher and evaluation cannot drift apart.

The student sees the problem; the teacher sees the problem and a verified reference solution (eq. 1 and 2 of the PHF
paper). Both go through the model's own chat template, with thinking mode always stated.
"""

import re
from dataclasses import dataclass
from typing import Any, Protocol

from phfcli.core.config import PromptSettings
from phfcli.core.errors import UserError

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."

STUDENT_TEMPLATE = "{problem}\n\n" + INSTRUCTION

TEACHER_TEMPLATE = (
    "{problem}\n\nA verified reference solution:\n\n{solution}\n\n"
    "Use it to solve the problem in your own words.\n\n" + INSTRUCTION
)


class ChatTokenizer(Protocol):
    """The part of a transformers tokenizer that prompts need."""

    def apply_chat_template(self, conversation: list[dict[str, str]], **kwargs: Any) -> Any: ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    @property
    def eos_token_id(self) -> Any: ...


@dataclass(frozen=True)
class Prompts:
    """Renders the student's and the teacher's prompt of a problem, as text or as token ids."""

    tokenizer: ChatTokenizer
    student_template: str = STUDENT_TEMPLATE
    teacher_template: str = TEACHER_TEMPLATE
    thinking: bool = True
    teacher_thinking: bool = True

    def student_text(self, problem: str) -> str:
        """The prompt that training samples from and evaluation scores."""
        return self._chat(self.thinking, _fill(self.student_template, problem=problem))

    def teacher_text(self, problem: str, solution: str) -> str:
        """The privileged prompt: the same problem with its reference solution."""
        return self._chat(self.teacher_thinking, _fill(self.teacher_template, problem=problem, solution=solution))

    def student(self, problem: str) -> list[int]:
        return self._ids(self.student_text(problem))

    def teacher(self, problem: str, solution: str) -> list[int]:
        return self._ids(self.teacher_text(problem, solution))

    def target_text(self, problem: str, solution: str) -> str:
        """The reference as the assistant's turn: what the chat template writes after its own prompt.

        Qwen3's puts an empty thinking part before a solution that has none. Where a template does not go on from its
        prompt, it is the solution alone.
        """
        prompt, turn = self.student_text(problem), {"role": "assistant", "content": solution}
        whole = self._chat(self.thinking, _fill(self.student_template, problem=problem), turn)
        return whole.removeprefix(prompt) if whole.startswith(prompt) else solution

    def target(self, problem: str, solution: str) -> list[int]:
        """The token ids of `target_text`, up to the end-of-sequence token."""
        ids, eos = self._ids(self.target_text(problem, solution)), self.tokenizer.eos_token_id
        if eos in ids:
            return ids[: len(ids) - ids[::-1].index(eos)]
        return ids if eos is None else [*ids, eos]

    def _chat(self, thinking: bool, content: str, *turns: dict[str, str]) -> str:
        """The user's message as a prompt, or as a conversation if turns follow it."""
        messages = [{"role": "user", "content": content}, *turns]
        text: str = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=not turns, enable_thinking=thinking
        )
        return text

    def _ids(self, text: str) -> list[int]:
        # the template has already written the special tokens
        return list(self.tokenizer.encode(text, add_special_tokens=False))


def _fill(template: str, **fields: str) -> str:
    """Replaces each {name}; braces in the template's own LaTeX and in the fields themselves are left alone."""
    return re.sub(r"\{(\w+)\}", lambda match: fields.get(match[1], match[0]), template)


def build_prompts(tokenizer: ChatTokenizer, settings: PromptSettings) -> Prompts:
    """The prompts the settings ask for. Raises UserError for a template that leaves the problem out."""
    student = settings.student or STUDENT_TEMPLATE
    teacher = settings.teacher or TEACHER_TEMPLATE
    for name, template, fields in [("student", student, ["problem"]), ("teacher", teacher, ["problem", "solution"])]:
        for field in fields:
            if "{" + field + "}" not in template:
                raise UserError(f"prompt.{name}: the template lacks {{{field}}}")
    teacher_thinking = settings.thinking if settings.teacher_thinking is None else settings.teacher_thinking
    return Prompts(tokenizer, student, teacher, settings.thinking, teacher_thinking)
