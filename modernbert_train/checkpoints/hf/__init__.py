"""Hugging Face's config, weights and folders, and how they are ours."""
