"""Labelled tasks: their description in YAML, their rows, leaks between splits, metrics, results."""
