"""Models: decoder blocks, a final norm, a head and a tokenizer, with an adapter or without.

In comes a hub id or a folder; out come its description (without weights), the loaded model with its adapter, rendered
prompts, and the two forward passes over a batch. Nothing here samples, trains or writes into a run.

The libraries are loaded here, in the one way that takes the least time. Without the collector of cycles, which looks
through their half a million objects again and again though they stay. And with torch.compile off: PEFT loads
bitsandbytes where it is installed, which compiles some of its fallbacks and so loads the whole compiler for them.
"""

import atexit
import gc

_collects = gc.isenabled()  # which is the program's own choice
gc.collect()
gc.disable()
from accelerate.utils import patch_environment  # noqa: E402 - the collector is off before

with patch_environment(TORCHDYNAMO_DISABLE="1"):
    import peft  # noqa: F401
gc.freeze()
if _collects:
    gc.enable()
atexit.register(gc.unfreeze)  # at the end triton counts its objects, and prints those that are still there
