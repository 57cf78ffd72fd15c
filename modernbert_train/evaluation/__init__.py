"""Scores and pictures of what was trained."""
