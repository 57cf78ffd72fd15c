"""Hugging Face's configs, weights and folders, and their equivalents in ours."""
