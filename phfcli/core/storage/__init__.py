"""Storage: files, tables, tensors, data sets from the hub, and child processes.

In come paths, rows and tensors; out come the same, or a UserError that names the file. A reader finds either the old
file or the new one, never half of either. Nothing here depends on what a run, a model or an evaluation is.
"""
