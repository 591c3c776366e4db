"""The problems of a run that its readers can read, as the start and the dry run both take them."""

from collections.abc import Iterable

from phfcli.core.config import TrainConfig
from phfcli.core.models.prompts import Prompts
from phfcli.core.objectives.contract import Needs
from phfcli.core.runs.training_data import Curriculum, SequenceLengths, build_curriculum, check_rewards
from phfcli.core.storage.problem_rows import skipped_rows


def fitting_curriculum(
    config: TrainConfig, needs: Needs, prompts: Prompts, contexts: Iterable[int | None]
) -> tuple[Curriculum, int]:
    """The problems that fit into every reader's context, None for one without, and how many were left out.

    Raises:
        UserError: for problems that cannot be read or do not fit.
    """
    new_tokens = None if needs.offline else config.rollout.max_new_tokens
    limit = min(context for context in (*contexts, needs.max_tokens) if context is not None)
    lengths = SequenceLengths(prompts, needs.privileged, new_tokens, references=config.rollout.references > 0)
    return build_curriculum(config, lengths, limit)


def curriculum_warnings(config: TrainConfig, needs: Needs, curriculum: Curriculum) -> list[str]:
    """What somebody who starts the run should know of its problems. Raises UserError where no reward can be given."""
    skipped = [skipped_rows(config.data, curriculum.bad)] if curriculum.bad else []
    graded = needs.reward or (needs.privileged and curriculum.context.drawn)  # a sibling is shown where it was right
    return skipped + (check_rewards(curriculum.visited(config.steps), config.data) if graded else [])
