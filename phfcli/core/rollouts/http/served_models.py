"""The models of a vLLM server: checks its base model, and loads and unloads adapters."""

import asyncio
import hashlib
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from phfcli.core.models.description import locate
from phfcli.core.rollouts.engine import Serving
from phfcli.core.rollouts.http.client import HttpClient, TransientError, is_transient
from phfcli.core.rollouts.vllm_engine import adapter_rank
from phfcli.core.storage.files import folder_hash

_GOODBYE_S = 10.0


class ServedModel(BaseModel):
    """What the server says of a model: an adapter has a parent, the base has none."""

    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


class _Listing(BaseModel):
    data: list[ServedModel]


@dataclass(frozen=True)
class Adapter:
    """A PEFT folder and its name on the server, a hash of the folder's path and content.

    So the next evaluation finds the same adapter loaded, and blocks of the prefix cache, which vLLM keys by that
    name, are never those of other weights.
    """

    name: str
    folder: Path

    @classmethod
    def of(cls, folder: Path) -> "Adapter":
        folder = folder.resolve()
        digest = hashlib.sha256(f"{folder}\0{folder_hash(folder)}".encode()).hexdigest()
        return cls(f"phf-{digest[:20]}", folder)


class ServedModels:
    """The models of one server.

    base: the name that requests for the base model carry, once `names` has found it.
    longest: the sequence that it takes, in tokens, where it says so.
    """

    def __init__(self, client: HttpClient, serving: Serving) -> None:
        self.base = ""
        self.longest: int | None = None
        self._client = client
        self._wanted, self._length = serving.settings.model, serving.length
        self._loading = asyncio.Lock()

    async def names(self) -> set[str]:
        """Every name that is served. Raises UserError where the base is another model, or takes shorter sequences."""
        served = self._client.parse(_Listing, await self._client.request("/v1/models")).data
        bases = [model for model in served if model.parent is None]
        base = next((model for model in bases if is_model(model, self._wanted)), None)
        if base is None:
            found = " and ".join(model.root or model.id for model in bases) or "no model"
            wanted = locate(self._wanted)
            raise self._client.refusal(f"it serves {found}, and {wanted} is wanted; start it with that model")
        if base.max_model_len is not None and base.max_model_len < self._length:
            raise self._client.refusal(
                f"it takes sequences of {base.max_model_len} tokens, and these reach {self._length}; "
                f"start it with --max-model-len {self._length}"
            )
        self.base, self.longest = base.id, base.max_model_len
        return {model.id for model in served}

    async def load(self, adapter: Adapter) -> None:
        """Sees to it that the server has the adapter. Raises UserError if it will not take it."""
        async with self._loading:
            if adapter.name in await self.names():
                return
            wish = {"lora_name": adapter.name, "lora_path": str(adapter.folder)}
            answer = await self._client.request("/v1/load_lora_adapter", wish)
            if answer.status == 200:
                return
            # vLLM answers 500 also to an adapter that it cannot take
            if answer.status != 500 and is_transient(answer.status):
                raise TransientError(answer.message)
            if adapter.name in await self.names():  # another process was faster
                return
            raise self._client.refusal(
                f"it does not load the adapter {adapter.folder} ({answer.message}); start it where it can read that, "
                "with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and --enable-lora "
                f"--max-lora-rank {adapter_rank(adapter.folder)}"
            )

    async def drop(self, adapter: Adapter) -> None:
        """Unloads an adapter, if the server is there to do so."""
        try:
            async with asyncio.timeout(_GOODBYE_S):
                await self._client.request("/v1/unload_lora_adapter", {"lora_name": adapter.name})
        except (TransientError, TimeoutError):
            pass


def is_model(served: ServedModel, wanted: str) -> bool:
    """Whether a served model is the wanted one, as far as names can tell.

    Equal names are the same, and two folders of this machine are compared as such. A folder that is not on this
    machine, or one beside a hub id, passes with an equal last part.
    """
    where = locate(wanted)
    root = served.root or served.id
    if {served.id, root} & {wanted, where}:
        return True
    here, there = Path(where), Path(root)
    if here.is_dir() and there.is_dir():
        return here.resolve() == there.resolve()
    if not here.is_absolute() and not there.is_absolute():  # two hub ids
        return False
    return here.name == there.name
