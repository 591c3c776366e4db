"""Every prompt of the project is rendered here, so that student, teacher and evaluation cannot drift apart.

The student sees the problem; the teacher sees the problem and a verified reference solution (eq. 1 and 2 of the PHF
paper). Both go through the model's own chat template, with thinking mode always stated.
"""

import re
from dataclasses import dataclass

from phfcli.core.config import PromptSettings
from phfcli.core.errors import UserError
from phfcli.core.models.chat_template import (
    PLAIN_TEMPLATE,
    ChatTokenizer,
    choose_template,
    going_on,
    names_thinking,
    render,
    thinking_state,
)

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."

STUDENT_TEMPLATE = "{problem}\n\n" + INSTRUCTION

TEACHER_TEMPLATE = (
    "{problem}\n\nA verified reference solution:\n\n{solution}\n\n"
    "Use it to solve the problem in your own words.\n\n" + INSTRUCTION
)


@dataclass(frozen=True)
class Prompts:
    """Renders the student's and the teacher's prompt of a problem, as text or as token ids."""

    tokenizer: ChatTokenizer
    student_template: str = STUDENT_TEMPLATE
    teacher_template: str = TEACHER_TEMPLATE
    thinking: bool = True
    teacher_thinking: bool = True
    chat_template: str | None = None  # in the place of the tokenizer's own
    eos_ids: frozenset[int] = frozenset()  # that end a completion, besides the tokenizer's own

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
        prompt, or strips the solution's own thinking, it is the solution alone. A thinking part that the prompt has
        opened is not opened again, and is closed before a solution that does not close it.
        """
        prompt, turn = self.student_text(problem), {"role": "assistant", "content": solution}
        whole = self._chat(self.thinking, _fill(self.student_template, problem=problem), turn)
        rest = whole.removeprefix(prompt) if whole.startswith(prompt) else solution
        if "".join(solution.split()) not in "".join(rest.split()):
            rest = solution
        return going_on(prompt, rest)

    def target(self, problem: str, solution: str) -> list[int]:
        """The token ids of `target_text`, up to the first token behind the solution that ends a completion."""
        ids, eos = self._ids(self.target_text(problem, solution)), self.tokenizer.eos_token_id
        ends = [index for index, token in enumerate(ids) if token == eos or token in self.eos_ids]
        if ends:
            return ids[: ends[-1] + 1]
        return ids if eos is None else [*ids, eos]

    def notes(self) -> list[str]:
        """What is told at start: the template where it is not the tokenizer's, and where each reader's turn starts."""
        if self.chat_template == PLAIN_TEMPLATE:
            return ["the tokenizer has no chat template: prompts are plain text; --set prompt.chat_template=FILE"]
        return [self._start_note()]

    def warnings(self) -> list[str]:
        """What is wrong with the prompts as far as can be seen: readers whose turns start in different states."""
        student, teacher = thinking_state(self.student_text("")), thinking_state(self.teacher_text("", ""))
        if student == teacher:
            return []
        return [f"the student's turn starts {student}, and the teacher reads it {teacher}; set prompt.teacher_thinking"]

    def _start_note(self) -> str:
        student, teacher = self.student_text(""), self.teacher_text("", "")
        states = thinking_state(student), thinking_state(teacher)
        if states[0] != states[1]:
            return f"completions start {states[0]}; as the teacher reads them, {states[1]}"
        other = self._chat(not self.thinking, _fill(self.student_template, problem=""))
        if student == other and not names_thinking(student):
            return "the chat template has no thinking mode"
        return f"both readers start {states[0]}"

    def _chat(self, thinking: bool, content: str, *turns: dict[str, str]) -> str:
        """The user's message as a prompt, or as a conversation if turns follow it."""
        messages = [{"role": "user", "content": content}, *turns]
        return render(self.tokenizer, self.chat_template, messages, thinking)

    def _ids(self, text: str) -> list[int]:
        # the template has already written the special tokens
        return list(self.tokenizer.encode(text, add_special_tokens=False))


def _fill(template: str, **fields: str) -> str:
    """Replaces each {name}; braces in the template's own LaTeX and in the fields themselves are left alone."""
    return re.sub(r"\{(\w+)\}", lambda match: fields.get(match[1], match[0]), template)


def build_prompts(tokenizer: ChatTokenizer, settings: PromptSettings, eos_ids: frozenset[int] = frozenset()) -> Prompts:
    """The prompts the settings ask for.

    Raises:
        UserError: for a template that leaves the problem out, or a chat template that cannot render.
    """
    student = settings.student or STUDENT_TEMPLATE
    teacher = settings.teacher or TEACHER_TEMPLATE
    for name, template, fields in [("student", student, ["problem"]), ("teacher", teacher, ["problem", "solution"])]:
        for field in fields:
            if "{" + field + "}" not in template:
                raise UserError(f"prompt.{name}: the template lacks {{{field}}}")
    teacher_thinking = settings.thinking if settings.teacher_thinking is None else settings.teacher_thinking
    chat = choose_template(tokenizer, settings.chat_template)
    return Prompts(tokenizer, student, teacher, settings.thinking, teacher_thinking, chat, eos_ids)
