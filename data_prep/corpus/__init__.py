"""The corpus of the quickstart, collected from the Python installation."""
