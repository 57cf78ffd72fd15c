"""Masking and next-token targets, checked token by token."""


def check_masked_row(original, masked_ids, positions, labels, num_targets, rate, masking) -> None:
    maskable = [at for at, token in enumerate(original) if masking.maskable[token]]
    assert num_targets == (max(1, int(rate * len(maskable) + 0.5)) if maskable else 0)
    chosen = positions[:num_targets].tolist()
    assert chosen == sorted(set(chosen))
    assert set(chosen) <= set(maskable)
    assert labels[:num_targets].tolist() == [original[at] for at in chosen]
    assert set(labels[num_targets:].tolist()) <= {-100}
    ordinary = set(masking.ordinary_ids.tolist())
    for at, (before, after) in enumerate(zip(original.tolist(), masked_ids.tolist(), strict=True)):
        if at not in chosen:
            assert after == before
        else:
            assert after == masking.mask_id or after in ordinary


def next_tokens(input_ids, segment_tokens, num_tokens) -> list[tuple[int, int]]:
    """Return (position, token to predict), document by document, for all but the last token of each."""
    found, start = [], 0
    for length in segment_tokens:
        for at in range(start, start + length - 1):
            if at < num_tokens:
                found.append((at, input_ids[at + 1]))
        start += length
    return found
