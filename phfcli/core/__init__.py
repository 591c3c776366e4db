"""The floors of phfcli; imports only go down: drivers, methods, models, maths, ground."""
