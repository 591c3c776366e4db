"""Refuses settings that do not go together, before a run starts."""

from transformers import PreTrainedConfig, PreTrainedModel

from phfcli.core.config import TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.models.architecture.sizes import depth_of, width_of
from phfcli.core.models.description import pick_device
from phfcli.core.models.layer_choice import check_layers
from phfcli.core.models.logit_lens import check_logit_lens
from phfcli.core.models.quantization import check_quantization, comes_quantized
from phfcli.core.objectives.contract import Needs
from phfcli.core.objectives.teachers.bridge import Bridge
from phfcli.core.runs.provenance import model_identity


def check_shares(config: TrainConfig, group_size: int, processes: int) -> None:
    """Raises UserError where a step cannot be shared out: in equal shares, if ranks need each other in every pass."""
    completions, sharded = config.batch_size * group_size, config.sharding == "fsdp"
    if completions < processes:
        raise UserError(
            f"batch_size: a step's {completions} completions are too few for {processes} processes to share"
        )
    if sharded and processes == 1:
        raise UserError("sharding: there is one process only; start several, with --processes or torchrun")
    if sharded and config.tuning == "full" and config.rollout.engine not in ("auto", "transformers"):
        raise UserError(
            "rollout.engine: with sharding=fsdp and tuning=full no process has whole weights to hand over; "
            "use transformers"
        )
    if sharded and config.tuning == "full" and (config.offload.optimizer or config.offload.teacher):
        raise UserError(
            "offload: with sharding=fsdp and tuning=full moments and teacher are spread over the processes; leave "
            "offload.optimizer and offload.teacher out"
        )
    if sharded and 0 < config.rollout.references < 1:
        raise UserError(
            "sharding: with fsdp every process draws as often as the others, so rollout.references must be 0 or 1"
        )
    if sharded and completions % processes:
        raise UserError(
            f"batch_size: with sharding=fsdp a step's {completions} completions must be a multiple of "
            f"{processes} processes"
        )


def check_base(config: TrainConfig, arch: PreTrainedConfig) -> None:
    """Raises UserError for a quantised base where all weights train, are sharded, or another engine draws."""
    kind = comes_quantized(arch) or config.quantization
    check_quantization(kind, config.tuning, config.sharding, "auto" if comes_quantized(arch) else config.rollout.engine)


def check_states(config: TrainConfig, needs: Needs, causal: PreTrainedModel) -> None:
    """Raises UserError for layers that the model does not have, or whose states the objective cannot use."""
    for setting, layers in (("flow.layers", config.flow.layers), ("oprd.layers", config.oprd.layers)):
        if layers == needs.layers:  # of the two the one that the objective reads
            check_layers(setting, layers, depth_of(causal.config))
    if config.teacher.states != "same" and not (needs.teacher and needs.outputs and needs.layers != ()):
        raise UserError(
            f"teacher.states: {config.objective} has no two targets, of outputs and of hidden states, to take apart"
        )
    if needs.lens is not None and config.compile:
        raise UserError(f"compile: {config.objective} reads attention within the blocks; leave compile out")
    if needs.lens is not None:
        check_logit_lens(causal, needs.lens)
    check_served(config, needs, depth_of(causal.config))


def check_external(
    config: TrainConfig, needs: Needs, student: PreTrainedConfig, teacher: PreTrainedConfig, same_tokens: bool
) -> None:
    """Raises UserError for a teacher whose outputs or states cannot be compared with the student's."""
    name, fix = f"teacher.model: {config.teacher.model}", "fit one with `phf bridge fit`"
    if needs.bridge is not None:
        _check_bridge(config, needs.bridge)
    elif not same_tokens:
        raise UserError(
            f"{name} has another tokenizer than {config.model}, so without a bridge neither next tokens nor states can "
            f"be compared; {fix} and train with --objective oprd --set oprd.bridge=FILE"
        )
    elif needs.layers != () and width_of(student) != width_of(teacher):
        widths = f"{width_of(teacher)}, and those of {config.model} of {width_of(student)}"
        raise UserError(f"{name} has states of width {widths}; they need a bridge: {fix}, then --set oprd.bridge=FILE")
    if needs.outputs and not same_tokens:
        raise UserError(f"{name} has another tokenizer, so its next tokens cannot be compared: --set oprd.mu=null")


def settings_warnings(config: TrainConfig) -> list[str]:
    """What is allowed and does harm, a sentence each."""
    divergence, found = config.divergence, []
    if any(dict(config.offload).values()) and pick_device(config.device).type == "cpu":
        found.append("offload: there is no GPU here whose memory it could spare, so it changes nothing")
    if divergence.kind == "jsd" or divergence.clip is None or divergence.clip_mode != "element":
        return found
    return [
        *found,
        f"divergence.clip: on the entries of {divergence.kind} it drives those that it holds away from the teacher; "
        "set it to null, or divergence.clip_mode to token",
    ]


def check_served(config: TrainConfig, needs: Needs, depth: int) -> None:
    """Raises UserError for a teacher on a server of which states are read that no server gives."""
    blocks = needs.blocks(depth)
    if config.teacher.server is not None and blocks != () and not (blocks == (depth,) and needs.final_norm):
        raise UserError(
            f"teacher.server: a server gives the states behind the final norm alone, and {config.objective} compares "
            "those of the blocks; leave teacher.server out, or train with --objective oprd on its last layer"
        )


def _check_bridge(config: TrainConfig, bridge: Bridge) -> None:
    """Raises UserError for a bridge that was fitted to other models."""
    for side, setting, name in (("student", "model", config.model), ("teacher", "teacher.model", config.teacher.model)):
        fitted, given = bridge.about[side], model_identity(name or "")
        for key in ("sha256", "revision"):
            if key in fitted and key in given and fitted[key] != given[key]:
                raise UserError(
                    f"oprd.bridge: {bridge.path} was fitted to the {side} {fitted['name']} with {key} {fitted[key]}, "
                    f"and {setting} {name} has {given[key]}; fit another one with `phf bridge fit`"
                )
