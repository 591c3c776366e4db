"""`phf doctor`: proves a machine. What is installed and connected, and real steps of the real program, in minutes.

Whatever runs here is `phf` itself, in processes of its own and in a temporary folder that is removed afterwards.
"""
