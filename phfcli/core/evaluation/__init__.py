"""Evaluation: benchmarks, the samples that are drawn and graded, and their scores with standard errors.

In come a model and benchmarks; out come samples.jsonl, samples.parquet, summary.json and samples.html in a folder of
the run. A sample is on disk as soon as it is graded, so a stopped evaluation goes on with what is missing.
"""
