"""Retrieval: contrastive fine-tuning of single- and multi-vector models, and their scores."""
