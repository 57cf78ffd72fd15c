"""Embeddings for another tokenizer, one row at a time."""

import torch


def transplant_rows(table, new_ids, old_ids, roles, ordinary, num_rows):
    """Return the new table.

    `new_ids`, `old_ids`: token -> id; `roles`: new id -> old id of special tokens; `ordinary`: old ids of text.
    """
    mean = sum(table[old_id] for old_id in ordinary) / len(ordinary)
    rows = [mean] * num_rows
    for token, new_id in new_ids.items():
        if new_id in roles:
            rows[new_id] = table[roles[new_id]]
        elif token in old_ids and old_ids[token] not in roles.values():
            rows[new_id] = table[old_ids[token]]
    return torch.stack(rows)
