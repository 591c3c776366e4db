"""Renders prompts, in this module only: templates of student and teacher, the chat template, the thinking mode."""

import datetime
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from phfcli.core.config import PromptSettings
from phfcli.core.errors import UserError, first_line
from phfcli.core.names import ContextForm
from phfcli.core.storage.files import read_text

# for a tokenizer without a chat template: the problem, an empty line, and the completion
PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message.content }}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% else %}{{ '\\n\\n' }}{% endif %}{% endfor %}"
)

_OPENING = re.compile(r"<[\w:|]*think[\w|]*>|\[THINK\]", re.IGNORECASE)
_CLOSING = re.compile(r"</[\w:|]*think[\w|]*>|\[/THINK\]", re.IGNORECASE)
_CLOCK = re.compile(r"""\bstrftime_now\s*\(\s*(["'])(.*?)\1\s*\)""")
_NO_CLOCK = re.compile(r"\bstrftime_now\s+is\s+(?:not\s+)?defined|\{#.*?#\}", re.DOTALL)  # names it, does not read it
_PROBE = "phf-probe"  # a text that is looked for in what a template renders


class ChatTokenizer(Protocol):
    """The methods of a transformers tokenizer that prompts need."""

    def apply_chat_template(self, conversation: list[dict[str, str]], **kwargs: Any) -> Any: ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    def decode(self, token_ids: list[int]) -> Any: ...

    @property
    def eos_token_id(self) -> Any: ...

    @property
    def added_tokens_decoder(self) -> Any: ...


def render(tokenizer: ChatTokenizer, template: str | None, messages: Sequence[dict[str, str]], thinking: bool) -> str:
    """A conversation as text; one that ends with the user's turn becomes a prompt.

    Args:
        template: a chat template; None is the tokenizer's.

    Raises:
        UserError: for a template that is broken or that refuses the conversation.
    """
    given = {} if template is None else {"chat_template": template}
    try:
        text: str = tokenizer.apply_chat_template(
            list(messages),
            tokenize=False,
            add_generation_prompt=messages[-1]["role"] == "user",
            enable_thinking=thinking,
            **given,
        )
    except Exception as error:  # a template is a program, and may fail in any way
        raise UserError(
            f"{_named(tokenizer, template)} cannot render a prompt: {type(error).__name__}: {first_line(error)}; give "
            "another one with prompt.chat_template=FILE"
        ) from None
    return text


def choose_template(tokenizer: ChatTokenizer, path: str | None, day: datetime.date | None = None) -> str | None:
    """The chat template to render with: that of the file; else None, the tokenizer's; PLAIN_TEMPLATE without either.

    Args:
        day: what is written in place of each reading of the clock; None lets a template read it.

    Raises:
        UserError: for a file that cannot be read, or a template that fails or leaves out the user's message.
    """
    chosen: str | None = None
    if path is not None:
        try:
            chosen = read_text(Path(path))
        except UserError as error:
            raise UserError(f"prompt.chat_template: {error}") from None
    elif not getattr(tokenizer, "chat_template", None):
        chosen = PLAIN_TEMPLATE
    own: Any = chosen or getattr(tokenizer, "chat_template", None)
    own = own.get("default") if isinstance(own, dict) else own  # some tokenizers have several by name
    if isinstance(own, str) and not _renders_in_time(own):
        raise UserError(
            f"{_named(tokenizer, chosen)} takes more than {_RENDER_S} s or {_RENDER_BYTES / 2**20:.0f} MiB for a "
            "message of a word; give another one with prompt.chat_template=FILE"
        )
    if day is not None and _reads_clock(own):
        chosen = _CLOCK.sub(lambda match: f"{match[1]}{day.strftime(match[2])}{match[1]}", own)
        if _reads_clock(chosen):
            raise UserError(f"{_named(tokenizer, None)} reads the clock in a form of its own; give another template")
    if _PROBE not in render(tokenizer, chosen, [{"role": "user", "content": _PROBE}], thinking=True):
        raise UserError(f"{_named(tokenizer, chosen)} leaves out the user's message; give another template")
    return chosen


_RENDER_S, _RENDER_BYTES, _RENDERED = 2, 2**29, 2**20  # of time and memory for a prompt of a word, and its characters
_TRIAL = """
import json, resource, sys
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

class Generation(Extension):
    tags = {"generation"}
    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)

template, seconds, memory, longest = json.load(sys.stdin)
used = resource.getrusage(resource.RUSAGE_SELF)
spent = int(used.ru_utime + used.ru_stime) + 1
try:
    with open("/proc/self/statm") as pages:
        held = int(pages.read().split()[0]) * resource.getpagesize()
except OSError:
    held = 0
resource.setrlimit(resource.RLIMIT_CPU, (spent + seconds, spent + seconds))
resource.setrlimit(resource.RLIMIT_AS, (held + memory, held + memory))
loops = "jinja2.ext.loopcontrols"
room = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loops, Generation])
room.filters["tojson"], room.globals["strftime_now"] = json.dumps, lambda form: form
room.globals["raise_exception"] = lambda message: 1 / 0
user, other = ({"role": role, "content": "word"} for role in ("user", "assistant"))
for messages, thinking in (([user], True), ([user], False), ([user, other], True)):
    values = {"messages": messages, "add_generation_prompt": len(messages) == 1, "enable_thinking": thinking}
    try:
        text = room.from_string(template).render(bos_token="<s>", eos_token="</s>", **values)
    except MemoryError:
        sys.exit(3)
    except Exception:
        continue  # which is told where a prompt is rendered
    if len(text) > longest:
        sys.exit(3)
"""


@cache
def _renders_in_time(template: str) -> bool:
    """Whether a template, which is a program of somebody else's, renders a message of a word within the limits.

    It is tried in a process of its own: a loop in C can be ended in no other way.
    """
    given = json.dumps([template, _RENDER_S, _RENDER_BYTES, _RENDERED])
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _TRIAL], input=given, text=True, capture_output=True, timeout=30 * _RENDER_S
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode in (0, 1)  # 1: of the interpreter itself


def _reads_clock(template: Any) -> bool:
    """Whether a chat template asks for the present day, as those of Llama 3.2, SmolLM3 and gpt-oss do."""
    return isinstance(template, str) and "strftime_now" in _NO_CLOCK.sub("", template)


def fixed_template(tokenizer: ChatTokenizer, path: str | None, thinking: bool, day: datetime.date | None = None) -> str:
    """The chat template that `choose_template` chooses, with the thinking mode set in it if it has one."""
    chosen = choose_template(tokenizer, path, day)
    template: str = getattr(tokenizer, "chat_template", "") if chosen is None else chosen
    turn = [{"role": "user", "content": _PROBE}]
    modes = {render(tokenizer, template, turn, mode) for mode in (True, False)}
    return template if len(modes) == 1 else f"{{%- set enable_thinking = {str(thinking).lower()} -%}}\n{template}"


def turn_ends(tokenizer: ChatTokenizer, template: str | None = None) -> set[int]:
    """The special token with which a template ends the assistant's turn, if it does; it also ends a completion."""
    turns = [{"role": "user", "content": _PROBE}, {"role": "assistant", "content": _PROBE}]
    try:
        text = render(tokenizer, template, turns, thinking=True)
    except UserError:  # some templates take no finished turn; a broken one is refused where prompts are built
        return set()
    after = tokenizer.encode(text.rpartition(_PROBE)[2], add_special_tokens=False)
    special = {token for token, about in tokenizer.added_tokens_decoder.items() if about.special}
    return set(after[:1]) & special


def names_thinking(prompt: str) -> bool:
    """Whether a prompt has a tag that opens or closes a thinking part."""
    return bool(_OPENING.search(prompt) or _CLOSING.search(prompt))


def thinking_state(prompt: str) -> str:
    """Where a completion starts, in words, as far as the tags in its prompt show."""
    opened = [match.end() for match in _OPENING.finditer(prompt)]
    closed = [match.end() for match in _CLOSING.finditer(prompt)]
    if opened and opened[-1] > max(closed, default=0):
        return "inside a thinking part" if not prompt[opened[-1] :].strip() else "before any thinking"
    return "behind a closed thinking part" if closed and not prompt[closed[-1] :].strip() else "before any thinking"


def continue_turn(prompt: str, turn: str) -> str:
    """A turn as the continuation of its prompt.

    Where the prompt has opened a thinking part, the turn does not open it again; a turn that never closes it gets the
    closing tag in front, since a solution must not be learned as a thought.
    """
    if thinking_state(prompt) != "inside a thinking part":
        return turn
    opening = _OPENING.match(turn.lstrip())
    rest = turn.lstrip()[opening.end() :].lstrip("\n") if opening else turn
    if _CLOSING.search(rest):
        return rest
    tag = _OPENING.findall(prompt)[-1]
    return f"{tag[0]}/{tag[1:]}\n\n{rest.lstrip()}"


def _named(tokenizer: ChatTokenizer, template: str | None) -> str:
    """How an error names a chat template."""
    if template is not None:
        return "prompt.chat_template: the template"
    return f"{getattr(tokenizer, 'name_or_path', '') or 'model'}: the chat template of its tokenizer"


INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."

STUDENT_TEMPLATE = "{problem}\n\n" + INSTRUCTION

TEACHER_TEMPLATE = (
    "{problem}\n\nA verified reference solution:\n\n{solution}\n\n"
    "Use it to solve the problem in your own words.\n\n" + INSTRUCTION
)


# in the order of OP2SD (arXiv 2608.09228): the problem, a note, the example with its solution, solve on your own
EXAMPLE_TEMPLATE = (
    "{problem}\n\nAn unrelated example, for its method alone; none of its numbers belong to the problem above:\n\n"
    "{solution}\n\nNow solve the problem on your own.\n\n" + INSTRUCTION
)


@dataclass(frozen=True)
class Prompts:
    """Renders the student's and the teacher's prompt of a problem, as text or as token ids."""

    tokenizer: ChatTokenizer
    student_template: str = STUDENT_TEMPLATE
    teacher_template: str = TEACHER_TEMPLATE
    thinking: bool = True
    teacher_thinking: bool = True
    chat_template: str | None = None  # None is the tokenizer's
    eos_ids: frozenset[int] = frozenset()  # further tokens that end a completion, besides the tokenizer's
    vocabulary: int | None = None  # rows of the model's embedding; None where no model reads the tokens
    day: datetime.date | None = None  # what the chat template says in place of the present day; None if it says none

    def student_text(self, problem: str) -> str:
        """The prompt that training samples from and evaluation scores."""
        return self._chat(self.thinking, _fill(self.student_template, problem=problem))

    def teacher_text(self, problem: str, solution: str, form: ContextForm = "reference") -> str:
        """The privileged prompt: the same problem with its reference solution, or another of the forms.

        "example" shows another problem's solution as such, "alone" the reference without the problem, and "free" is
        the student's own prompt, in the teacher's mode of thinking.
        """
        templates: dict[ContextForm, str] = {
            "reference": self.teacher_template,
            "example": EXAMPLE_TEMPLATE,
            "alone": self.teacher_template.replace("{problem}", "").strip(),
            "free": self.student_template,
        }
        return self._chat(self.teacher_thinking, _fill(templates[form], problem=problem, solution=solution))

    def student(self, problem: str) -> list[int]:
        return self._ids(self.student_text(problem))

    def teacher(self, problem: str, solution: str, form: ContextForm = "reference") -> list[int]:
        return self._ids(self.teacher_text(problem, solution, form))

    def target_text(self, problem: str, solution: str) -> str:
        """The reference as the assistant's turn: what the chat template renders after the prompt.

        Qwen3's template puts an empty thinking part before a solution that has none. Where a template does not
        continue its prompt, or strips the solution's thinking, the target is the solution alone. See `continue_turn`
        for a thinking part that the prompt has opened.
        """
        prompt, turn = self.student_text(problem), {"role": "assistant", "content": solution}
        whole = self._chat(self.thinking, _fill(self.student_template, problem=problem), turn)
        rest = whole.removeprefix(prompt) if whole.startswith(prompt) else solution
        if "".join(solution.split()) not in "".join(rest.split()):
            rest = solution
        return continue_turn(prompt, rest)

    def target(self, problem: str, solution: str) -> list[int]:
        """The token ids of `target_text`, up to the first token behind the solution that ends a completion."""
        ids, eos = self._ids(self.target_text(problem, solution)), self.tokenizer.eos_token_id
        ends = [index for index, token in enumerate(ids) if token == eos or token in self.eos_ids]
        if ends:
            return ids[: ends[-1] + 1]
        return ids if eos is None else [*ids, eos]

    def notes(self) -> list[str]:
        """The lines that a run prints at its start: a missing chat template, or where each reader's turn starts."""
        if self.chat_template == PLAIN_TEMPLATE:
            return ["the tokenizer has no chat template: prompts are plain text; prompt.chat_template=FILE gives one"]
        dated = [f"the chat template reads the clock: every prompt says {self.day} (prompt.day)"] if self.day else []
        return [self._start_note(), *dated]

    def warnings(self) -> list[str]:
        """Warnings: the turns of student and teacher start in different thinking states."""
        student, teacher = thinking_state(self.student_text("")), thinking_state(self.teacher_text("", ""))
        if student == teacher:
            return []
        return [f"the student's turn starts {student}, and the teacher reads it {teacher}; set prompt.teacher_thinking"]

    def _start_note(self) -> str:
        student, teacher = self.student_text(""), self.teacher_text("", "")
        states = thinking_state(student), thinking_state(teacher)
        if states[0] != states[1]:
            return f"completions start {states[0]}; as the teacher reads them, {states[1]}"
        if not self.has_thinking_mode:
            return "the chat template has no thinking mode"
        return f"both readers start {states[0]}"

    @property
    def has_thinking_mode(self) -> bool:
        """Whether the chat template makes another prompt of the student without thinking, or opens a thinking part."""
        student = self.student_text("")
        other = self._chat(not self.thinking, _fill(self.student_template, problem=""))
        return student != other or names_thinking(student)

    def _chat(self, thinking: bool, content: str, *turns: dict[str, str]) -> str:
        """The user's message as a prompt, or as a conversation if turns follow it."""
        messages = [{"role": "user", "content": content}, *turns]
        return render(self.tokenizer, self.chat_template, messages, thinking)

    def _ids(self, text: str) -> list[int]:
        # the template has already written the special tokens
        ids = list(self.tokenizer.encode(text, add_special_tokens=False))
        largest = max(ids, default=0)
        if self.vocabulary is not None and largest >= self.vocabulary:
            raise UserError(
                f"model: a prompt holds token {largest} ({self.tokenizer.decode([largest])!r}), and the model's "
                f"embedding has {self.vocabulary} rows; use a chat template and data without that token"
            )
        return ids


def _fill(template: str, **fields: str) -> str:
    """Replaces each {name} once; braces of LaTeX in the template and in the fields stay."""
    return re.sub(r"\{(\w+)\}", lambda match: fields.get(match[1], match[0]), template)


def build_prompts(
    tokenizer: ChatTokenizer,
    settings: PromptSettings,
    eos_ids: frozenset[int] = frozenset(),
    vocabulary: int | None = None,
    today: datetime.date | None = None,
) -> Prompts:
    """The prompts of the settings.

    Args:
        today: the day for a template that reads the clock where settings name none; None is the present one.

    Raises:
        UserError: for a template without {problem} or {solution}, a chat template that cannot render, or one with a
            token beyond the model's `vocabulary`.
    """
    student = settings.student or STUDENT_TEMPLATE
    teacher = settings.teacher or TEACHER_TEMPLATE
    for name, template, fields in [("student", student, ["problem"]), ("teacher", teacher, ["problem", "solution"])]:
        for field in fields:
            if "{" + field + "}" not in template:
                raise UserError(f"prompt.{name}: the template lacks {{{field}}}")
    teacher_thinking = settings.thinking if settings.teacher_thinking is None else settings.teacher_thinking
    day = settings.day or today or datetime.datetime.now().astimezone().date()
    chat = choose_template(tokenizer, settings.chat_template, day)
    dated = chat != choose_template(tokenizer, settings.chat_template)
    modes = settings.thinking, teacher_thinking
    prompts = Prompts(tokenizer, student, teacher, *modes, chat, eos_ids, vocabulary, day if dated else None)
    if vocabulary is not None:  # refuses a token of a template before any problem is read
        prompts.student("")
        prompts.teacher("", "")
    return prompts
