"""Documents -> tokens -> MDS shards and a manifest. See `python -m data_prep --help`."""
