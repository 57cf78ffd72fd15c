"""`modernbert recipe`: a complete recipe for a store and a machine, from the hours that it may take.

`facts.py` reads the stores, `speed.py` knows tokens/s, `rules.py` chooses sizes, `text.py` writes them as YAML.
"""
