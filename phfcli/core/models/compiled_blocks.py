"""Decoder blocks compiled by torch.compile.

What lies between attention and attention in a block becomes a few generated functions; attention itself, which is told
by Python objects what belongs together, stays as it is: traced, it would be compiled again for each batch's lengths.
Hooks of a block (states that are captured, weights that are gathered) stand outside of what is compiled.
"""

import os
import shutil

import torch
import torch._dynamo
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from phfcli.core.errors import UserError
from phfcli.core.models.language_model import LanguageModel

_COMPILERS = ("g++", "clang++")
_FORMS = 32  # of a block: with a gradient or without, adapter on or folded in, one token or many; torch stops at 8


def compile_blocks(model: LanguageModel) -> None:
    """From now on the blocks are compiled when a pass first comes to them.

    Raises:
        UserError: on a CPU without a C++ compiler.
    """
    if model.device.type == "cpu" and not (os.environ.get("CXX") or any(map(shutil.which, _COMPILERS))):
        raise UserError("compile: on a CPU it takes a C++ compiler, and none is found: install g++, or leave it out")
    torch._dynamo.config.recompile_limit = _FORMS
    attention = ALL_ATTENTION_FUNCTIONS.get(model.attention)
    if attention is not None:  # "eager" stands in no table
        AttentionInterface.register(model.attention, torch.compiler.disable(attention))
    for block in model.blocks:
        block.forward = torch.compile(block.forward, dynamic=True)
