"""Samples of any tool, graded again under several policies: where they differ, and by how much."""
