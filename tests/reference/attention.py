"""Attention over packed documents, the simple way: one document and one head at a time, with explicit scores."""

import torch


def attention(
    qkv: torch.Tensor, cu_seqlens: torch.Tensor, window: int | None, causal: bool = False
) -> torch.Tensor:
    """[T, 3, H, D] -> [T, H, D], in the dtype given (tests use float64); differentiable."""
    documents = qkv.split(cu_seqlens.diff().tolist())
    return torch.cat([_document(document, window, causal) for document in documents])


def _document(qkv: torch.Tensor, window: int | None, causal: bool) -> torch.Tensor:
    length, _, num_heads, head_dim = qkv.shape
    position = torch.arange(length, device=qkv.device)
    distance = position[:, None] - position[None, :]  # query position - key position
    heads = []
    for head in range(num_heads):
        query, key, value = qkv[:, :, head].unbind(1)
        scores = query @ key.T / head_dim**0.5
        if window is not None:
            scores = scores.masked_fill(distance.abs() > window, float("-inf"))
        if causal:
            scores = scores.masked_fill(distance < 0, float("-inf"))
        heads.append(torch.softmax(scores, dim=-1) @ value)
    return torch.stack(heads, dim=1)
