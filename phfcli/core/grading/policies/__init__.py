"""The policies by which mathematics is graded: ours, and those by which other tools read and judge the same text."""
