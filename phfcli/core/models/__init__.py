"""Models: decoder blocks, a final norm, a head and a tokenizer, with an adapter or without.

In comes a hub id or a folder; out come its description (without weights), the loaded model with its adapter, rendered
prompts, and the two forward passes over a batch. Nothing here samples, trains or writes into a run.
"""
