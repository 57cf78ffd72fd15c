import torch

from modernbert_train.checkpoints.transplant import transplant

EMBEDDING = "model.embeddings.tok_embeddings.weight"


def test_by_hand():
    table = torch.tensor([[1.0, 10], [2, 20], [3, 30], [100, 100]])  # the last is no token of text
    weights = {EMBEDDING: table, "decoder.weight": table, "decoder.bias": torch.tensor([0.0, 3, 6, 9])}
    weights["head.norm.weight"] = torch.ones(2)
    new = transplant(weights, torch.tensor([2, -1, 3, 0, -1]), torch.tensor([0, 1, 2]))
    assert new[EMBEDDING].tolist() == [[3, 30], [2, 20], [100, 100], [1, 10], [2, 20]]
    assert new["decoder.bias"].tolist() == [6, 3, 9, 0, 3]
    assert new["decoder.weight"] is new[EMBEDDING]
    assert new["head.norm.weight"] is weights["head.norm.weight"]
    assert table.tolist()[0] == [1, 10]
