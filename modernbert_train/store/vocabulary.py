"""The number of rows of the embedding."""

# Rows in multiples of 64 keep the matrix product of the decoder on tensor cores.
VOCAB_MULTIPLE = 64


def padded_vocab_size(num_ids: int) -> int:
    """Return the number of embedding rows for `num_ids` ids: the next multiple of 64."""
    return -(-num_ids // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
