"""A model as the method sees it: decoder blocks, a final norm and a head, with a tokenizer beside them.

In comes a hub id or a folder; out come its description (before any weight), the loaded model with its adapter, rendered
prompts, and the two forward passes over a batch. Nothing here samples, trains or writes into a run.
"""
