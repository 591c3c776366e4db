"""The page of an evaluation's samples: one HTML file that needs nothing else."""
