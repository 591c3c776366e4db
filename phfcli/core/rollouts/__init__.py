"""Engines that draw completions: token ids in, token ids and log-probabilities out.

Training and evaluation use the same ones: transformers in this process, vLLM, a server of vLLM, or several processes.
A completion depends on its own prompt and seed alone, not on what is drawn beside it.
"""
