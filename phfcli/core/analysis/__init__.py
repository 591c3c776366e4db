"""From files on disk to findings: diagnosis of hidden flows, comparison of evaluations, bridges, export.

In come run directories, flow files and summaries; out come reports as plain records. Nothing here draws or prints; that
is the work of `reporting` and of the commands.
"""
