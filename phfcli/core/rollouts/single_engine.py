"""The rollout engine of one process, by its name."""

from phfcli.core.config import EvalConfig
from phfcli.core.extensions import find
from phfcli.core.models.description import pick_device
from phfcli.core.models.loading import load_model
from phfcli.core.rollouts.engine import Engine, Serving
from phfcli.core.rollouts.http.engine import HttpEngine
from phfcli.core.rollouts.sampling_check import check_sampling
from phfcli.core.rollouts.transformers_engine import TransformersEngine
from phfcli.core.rollouts.vllm_engine import VllmEngine, vllm_gap


def single_engine(config: EvalConfig, serving: Serving) -> Engine:
    """The engine of that name in this process; "auto" is vLLM where it is usable."""
    if is_url(config.engine):
        return HttpEngine(config.engine, serving)
    if (added := find("engines", config.engine)) is not None:
        engine: Engine = added(serving)
        return engine
    own = config.engine == "auto" and config.quantization == "none"
    usable = own and vllm_gap(pick_device(config.device)) is None
    if config.engine == "vllm" or usable:
        return VllmEngine(serving)
    model = load_model(serving.settings, serving.adapter)
    check_sampling(model)
    return TransformersEngine(model)


def is_url(name: str) -> bool:
    """Whether an engine's name is the address of a server."""
    return name.startswith(("http://", "https://"))
