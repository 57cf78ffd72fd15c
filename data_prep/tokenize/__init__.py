"""Tokenizing: documents -> filters -> token ids -> shards of a store, resumable, on one machine or on Slurm."""
