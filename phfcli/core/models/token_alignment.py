"""A rollout in the tokens of a teacher with another tokenizer, and the positions where tokens of both end."""

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
    """Gives each sample a copy in the teacher's tokens."""

    student: ModelDescription
    teacher: ModelDescription
    prompts: Prompts  # rendered by the teacher's chat template

    def __call__(self, sample: Sample, problem: Problem) -> Sample:
        """The sample with its copy in the teacher's tokens; the student's ids stay as they were sampled.

        Raises:
            UserError: where the teacher's tokens do not fit into its context.
        """
        text, ends = token_ends(self.student.tokenizer, sample.completion)
        encoded = self.teacher.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = list(encoded["input_ids"])
        # several tokens may end with the same character: the last one completes it
        teacher_at = {end: index for index, (_, end) in enumerate(encoded["offset_mapping"])}
        student_at = {end: index for index, end in enumerate(ends) if end is not None}
        common = [end for end in student_at if end in teacher_at]
        if set(sample.completion[-1:]) & self.student.eos_ids:
            ids.append(min(self.teacher.eos_ids))
        prompt = self.prompts.student(problem.problem)
        if len(prompt) + len(ids) > self.teacher.context:
            raise UserError(
                f"teacher.model: a rollout of problem {problem.id} takes {len(prompt) + len(ids)} of the teacher's "
                f"tokens, more than its context of {self.teacher.context}; lower rollout.max_new_tokens"
            )
        in_teacher_tokens = Sample(prompt, None, ids, aligned_positions=[teacher_at[end] for end in common])
        return replace(
            sample,
            teacher_prompt=None,
            aligned_positions=[student_at[end] for end in common],
            in_teacher_tokens=in_teacher_tokens,
        )


def same_tokens(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers have the same vocabulary under the same ids."""
    return one.get_vocab() == other.get_vocab()


def token_ends(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[str, list[int | None]]:
    """The text of token ids without special tokens, and the number of characters up to each token's end.

    None stands for a special token, and for one that ends inside a character.
    """
    stream = DecodeStream(skip_special_tokens=True)
    text, ends = "", list[int | None]()
    for token in ids:
        piece = stream.step(tokenizer.backend_tokenizer, token)
        text += piece or ""
        ends.append(len(text) if piece else None)
    return text, ends
