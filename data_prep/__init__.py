"""Documents -> tokens -> MDS shards and a manifest. `python -m data_prep --help` says how."""
