import json

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, models

from modernbert_train.checkpoints.transplant import match_tokens, transplant
from modernbert_train.config.architecture import EMBEDDING
from modernbert_train.store.tokenizer import load_tokenizer_info
from tests.reference.transplant import transplant_rows

OLD = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "dog", "[unused1]", "<s>"]
NEW = ["cat", "<s>", "</s>", "<mask>", "<pad>", "the", "[MASK]", "[unused1]", "mouse"]
NEW_ROLES = {"cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>", "pad_token": "<pad>"}


def write_tokenizer(folder, tokens, roles=None):
    folder.mkdir()
    tokenizer = Tokenizer(models.WordLevel({token: number for number, token in enumerate(tokens)}))
    specials = list((roles or {}).values()) or tokens[:5]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in specials])
    tokenizer.save(str(folder / "tokenizer.json"))
    if roles:
        (folder / "tokenizer_config.json").write_text(json.dumps(roles))
    return load_tokenizer_info(folder)


def test_tokens_are_found_by_role_and_by_string(tmp_path):
    old, new = write_tokenizer(tmp_path / "old", OLD), write_tokenizer(tmp_path / "new", NEW, NEW_ROLES)
    matches = match_tokens(new, old, num_rows=12)
    # cat; CLS, which is no <s> of the old one; SEP, MASK, PAD; the; what was MASK is a word here; [unused1]; mouse
    assert matches.origins.tolist() == [6, 2, 3, 4, 0, 5, -1, 8, -1, -1, -1, -1]
    assert matches.ordinary.tolist() == [5, 6, 7, 9]
    assert (matches.num_tokens, matches.num_shared, matches.num_by_role) == (9, 3, 4)


def test_against_the_slow_twin(tmp_path):
    old, new = write_tokenizer(tmp_path / "old", OLD), write_tokenizer(tmp_path / "new", NEW, NEW_ROLES)
    table = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    weights = {EMBEDDING: table, "decoder.bias": table[:, 0].clone()}
    matches = match_tokens(new, old, num_rows=64)
    rows = transplant(weights, torch.from_numpy(matches.origins), torch.from_numpy(matches.ordinary))
    ids = [{token: number for number, token in enumerate(tokens)} for tokens in (NEW, OLD)]
    roles = {new.cls_id: old.cls_id, new.sep_id: old.sep_id, new.mask_id: old.mask_id, new.pad_id: old.pad_id}
    expected = transplant_rows(table, *ids, roles, [5, 6, 7, 9], 64)
    assert torch.allclose(rows["decoder.weight"], expected, rtol=0, atol=1e-6)
    assert torch.allclose(rows["decoder.bias"], expected[:, 0], rtol=0, atol=1e-6)


def test_the_same_tokenizer_finds_every_token(tmp_path):
    old = write_tokenizer(tmp_path / "old", OLD)
    matches = match_tokens(old, old, num_rows=64)
    assert np.array_equal(matches.origins[: len(OLD)], np.arange(len(OLD)))
    assert matches.num_shared + matches.num_by_role == matches.num_tokens


def test_rows_by_hand():
    table = torch.tensor([[1.0, 10], [2, 20], [3, 30], [100, 100]])  # the last is not text
    weights = {EMBEDDING: table, "decoder.weight": table, "decoder.bias": torch.tensor([0.0, 3, 6, 9])}
    weights["head.norm.weight"] = torch.ones(2)
    new = transplant(weights, torch.tensor([2, -1, 3, 0, -1]), torch.tensor([0, 1, 2]))
    assert new[EMBEDDING].tolist() == [[3, 30], [2, 20], [100, 100], [1, 10], [2, 20]]
    assert new["decoder.bias"].tolist() == [6, 3, 9, 0, 3]
    assert new["decoder.weight"] is new[EMBEDDING]
    assert new["head.norm.weight"] is weights["head.norm.weight"]
    assert table.tolist()[0] == [1, 10]
