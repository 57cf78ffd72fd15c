"""Inspecting a finished store: tables, histograms, sample documents, damaged shards."""
