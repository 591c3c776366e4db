"""A step's samples.

In: problems and an engine. Out: completions with rewards and what the teacher is shown; rollouts of the step to come.
"""
