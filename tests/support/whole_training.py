"""Trains all weights for two steps as one of several processes, and tells how much memory of tensors it then holds.

    torchrun --nproc-per-node 2 tests/support/whole_training.py FOLDER

FOLDER/RANK.json is the number of bytes.
"""

import gc
import json
import sys
from pathlib import Path

import torch

from phfcli.core.settings import resolve_train, set_sources
from phfcli.core.training.ranks import joined
from phfcli.core.training.setup import build_trainer

_SETTINGS = ("steps=2", "batch_size=4", "rollout.max_new_tokens=24", "tuning=full", "sharding=fsdp", "device=cpu")


def main(folder: Path) -> None:
    with joined("cpu") as ranks:
        trainer = build_trainer(resolve_train(set_sources(_SETTINGS)), folder / "run", fresh=True, ranks=ranks)
        ranks.wait()
        for _ in trainer.train():
            pass
        (folder / f"{ranks.rank}.json").write_text(json.dumps(held()))


def held() -> int:
    """Bytes of every storage of floating-point numbers that is alive, whoever keeps it."""
    gc.collect()
    tensors = [x for x in gc.get_objects() if type(x) in (torch.Tensor, torch.nn.Parameter) and x.is_floating_point()]
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
    return sum(storages.values())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
