"""Files, tables, tensors, the hub, and processes of our own: what the other rooms use to read and write.

In come paths, rows and tensors; out come the same, or a UserError that names the file. A reader finds either the old
file or the new one, never half of either. Nothing here knows what a run, a model or an evaluation is.
"""
