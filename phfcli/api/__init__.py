"""The functions of `import phfcli as phf`: `phf.train`, `phf.evaluate`, `phf.diagnose`, `phf.compare` and others.

Each makes one call of the core, as each command does. Nothing heavy is imported before it is needed.
"""
