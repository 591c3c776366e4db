"""Evaluation: benchmarks, sampling and grading, and scores with standard errors.

An evaluation of a model on a benchmark writes samples.jsonl, samples.parquet, summary.json and samples.html into a
folder of the run. Each sample is written as soon as it is graded, so a stopped evaluation continues with the missing
samples.
"""
