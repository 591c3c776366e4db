"""What a Python program calls: `import phfcli as phf`, then `phf.train`, `phf.evaluate`, `phf.diagnose`, `phf.compare`.

Each is one call of the core, as each command is. Nothing heavy is imported before it is needed.
"""
