"""What people look at: charts, tables for other programs, and the report page.

In come the findings of `analysis` and the files of runs; out come pictures, Markdown, LaTeX, CSV and one HTML page that
asks the network for nothing. Text from files and models is escaped wherever it is shown.
"""
