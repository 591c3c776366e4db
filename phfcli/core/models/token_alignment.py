"""The same text in another model's tokens, and where the ends of both models' tokens meet."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerBase

from phfcli.core.errors import UserError
from phfcli.core.models.description import ModelDescription
from phfcli.core.models.passes import Sample
from phfcli.core.models.prompts import Prompts
from phfcli.core.types import Problem


@dataclass(frozen=True)
class TokenAlignment:
    """From the student's tokens to the teacher's."""

    student: ModelDescription
    teacher: ModelDescription
    prompts: Prompts  # the teacher's, which its own chat template renders

    def __call__(self, sample: Sample, problem: Problem) -> Sample:
        """The sample with its copy in the teacher's tokens; the student's ids stay as they were sampled.

        Raises:
            UserError: where the teacher's tokens do not fit into its context.
        """
        text, ends = token_ends(self.student.tokenizer, sample.completion)
        read = self.teacher.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = list(read["input_ids"])
        # several tokens of one character all end with it: the last of them has the whole of it
        other = {end: index for index, (_, end) in enumerate(read["offset_mapping"])}
        own = {end: index for index, end in enumerate(ends) if end is not None}
        met = [end for end in own if end in other]
        if set(sample.completion[-1:]) & self.student.eos_ids:
            ids.append(min(self.teacher.eos_ids))
        prompt = self.prompts.student(problem.problem)
        if len(prompt) + len(ids) > self.teacher.context:
            raise UserError(
                f"teacher.model: a rollout of problem {problem.id} takes {len(prompt) + len(ids)} of its tokens, more "
                f"than its context of {self.teacher.context}; shorten rollout.max_new_tokens"
            )
        in_teacher_tokens = Sample(prompt, None, ids, aligned_positions=[other[end] for end in met])
        return replace(
            sample,
            teacher_prompt=None,
            aligned_positions=[own[end] for end in met],
            in_teacher_tokens=in_teacher_tokens,
        )


def same_tokens(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers have the same vocabulary under the same ids."""
    return one.get_vocab() == other.get_vocab()


def token_ends(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[str, list[int | None]]:
    """The text of some tokens without the special ones, and the character after which each of them ends.

    A special token, or one that ends inside a character, has no end.
    """
    stream = DecodeStream(skip_special_tokens=True)
    text, ends = "", list[int | None]()
    for token in ids:
        piece = stream.step(tokenizer.backend_tokenizer, token)
        text += piece or ""
        ends.append(len(text) if piece else None)
    return text, ends
