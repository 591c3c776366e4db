"""Output for people: charts, tables for other programs, and the HTML pages of reports and probes.

This room turns the records of `analysis` and the files of runs into pictures, Markdown, LaTeX, CSV and HTML pages that
need no network. Text from files and models is escaped wherever it is shown.
"""
