"""python -m phfcli is the same as phf."""

from phfcli.cli import main

main()
