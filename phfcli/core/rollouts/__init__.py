"""Engines that sample completions: token ids in, token ids and log-probabilities out.

Training and evaluation use the same engines: transformers in this process, vLLM, a vLLM server, or several processes.
A completion depends on its own prompt and seed only, not on what is sampled beside it.
"""
