"""Indexing: a manifest and sidecars for an external MDS store, whose shards stay where they are."""
