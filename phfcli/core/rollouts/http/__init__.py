"""Rollouts from a running vLLM server, on this machine or another one.

`engine` draws completions, `client` sends requests and outlasts a server that is away for a while, `served_models` sees
to the base model and the adapters of the server. Nothing that a server answers is trusted.
"""
