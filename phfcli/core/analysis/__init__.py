"""Analysis of files on disk: diagnosis of hidden flows, comparison of evaluations, probe, bridge, export, verification.

This room reads run directories, flow files and summaries and returns plain records. It neither draws nor prints, which
`reporting` and the commands do.
"""
