"""Objectives that other packages add, behind the checks that their authors need."""
