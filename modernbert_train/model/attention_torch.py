"""Attention over packed documents in plain PyTorch, for the CPU and for devices without flash kernels.

Forward: PyTorch's fused `scaled_dot_product_attention`. Global layers call it for each document. Local layers call it
once per head, over blocks of 64 queries and the keys of the neighbouring blocks, for all documents together.

Backward: global layers in float32 on a CPU use PyTorch's fused kernel as well. In all other cases the backward pass is
written here, since the fused kernel hardly uses a CPU's matrix units in bfloat16 and does not support blocks. It
recomputes the probabilities tile by tile, so that saved memory is linear in the number of tokens, however long the
documents are.

`benchmarks/attention.py` compares this with alternatives.
"""

from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F

# Queries of a block in local layers; 32 and 128 were slower (benchmarks/attention.py).
BLOCK_TOKENS = 64

# Attention probabilities that a core computes at once. float32 is fastest while they fit into the core's cache;
# bfloat16 needs larger tiles to keep the matrix units busy.
_TILE_ELEMENTS_16_BIT, _TILE_ELEMENTS_32_BIT = 2**20, 2**18


def forward(
    qkv: torch.Tensor, cu_seqlens: torch.Tensor, window: int | None, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute `attention.attention`.

    Returns:
        Output [T, H, D], and the log-sum-exp of the scores [H, T], or an empty tensor where `saves_lse` is false.
    """
    with torch.autocast(qkv.device.type, enabled=False):
        if saves_lse(qkv, window):
            return _fused_forward(qkv, cu_seqlens, causal)
        unused = qkv.new_empty(0, dtype=torch.promote_types(qkv.dtype, torch.float32))
        if window is None:
            return _global_forward(qkv, cu_seqlens, causal), unused
        return _local_forward(qkv, cu_seqlens, window, causal), unused


def backward(
    grad_out: torch.Tensor,
    qkv: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    cu_seqlens: torch.Tensor,
    window: int | None,
    causal: bool,
) -> torch.Tensor:
    """Return the gradient with respect to qkv, [T, 3, H, D]; `out` and `lse` are read only if `saves_lse`."""
    with torch.autocast(qkv.device.type, enabled=False):
        if saves_lse(qkv, window):
            return _fused_backward(grad_out, qkv, out, lse, cu_seqlens, causal)
        if window is None:
            return _global_backward(grad_out, qkv, cu_seqlens, causal)
        return _local_backward(grad_out, qkv, cu_seqlens, window, causal)


def saves_lse(qkv: torch.Tensor, window: int | None) -> bool:
    """Check whether the backward pass is the fused one, which needs the output and the log-sum-exp [H, T]."""
    return window is None and qkv.device.type == "cpu" and qkv.dtype.itemsize >= 4


def _fused_forward(
    qkv: torch.Tensor, cu_seqlens: torch.Tensor, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    num_tokens, _, num_heads, head_dim = qkv.shape
    out, lse = qkv.new_empty(num_tokens, num_heads, head_dim), qkv.new_empty(num_heads, num_tokens)
    for start, end in pairwise(cu_seqlens.tolist()):
        query, key, value = qkv[start:end].permute(1, 2, 0, 3).unsqueeze(1)  # each [1, H, L, D]
        part, part_lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, is_causal=causal
        )
        out[start:end] = part[0].transpose(0, 1)
        lse[:, start:end] = part_lse[0]
    return out, lse


def _fused_backward(
    grad_out: torch.Tensor,
    qkv: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    cu_seqlens: torch.Tensor,
    causal: bool,
) -> torch.Tensor:
    grad = qkv.new_empty(qkv.shape)
    for start, end in pairwise(cu_seqlens.tolist()):
        query, key, value = qkv[start:end].permute(1, 2, 0, 3).unsqueeze(1)
        grad_o, o = (x[start:end].transpose(0, 1).unsqueeze(0) for x in (grad_out, out))
        part_lse = lse[None, :, start:end].contiguous()
        parts = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad_o, query, key, value, o, part_lse, 0.0, causal
        )
        for kind, part in enumerate(parts):
            grad[start:end, kind] = part[0].transpose(0, 1)
    return grad


def _global_forward(qkv: torch.Tensor, cu_seqlens: torch.Tensor, causal: bool) -> torch.Tensor:
    num_tokens, _, num_heads, head_dim = qkv.shape
    out = qkv.new_empty(num_tokens, num_heads, head_dim)
    for start, end in pairwise(cu_seqlens.tolist()):
        query, key, value = qkv[start:end].permute(1, 2, 0, 3).unsqueeze(1)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        out[start:end] = attended[0].transpose(0, 1)
    return out


def _global_backward(
    grad_out: torch.Tensor, qkv: torch.Tensor, cu_seqlens: torch.Tensor, causal: bool
) -> torch.Tensor:
    grad = qkv.new_empty(qkv.shape)
    for start, end in pairwise(cu_seqlens.tolist()):
        _document_backward(grad_out[start:end], qkv[start:end], grad[start:end], causal)
    return grad


def _document_backward(grad_out: torch.Tensor, qkv: torch.Tensor, grad: torch.Tensor, causal: bool) -> None:
    """Write the gradient of one document into `grad` [L, 3, H, D], in tiles of some heads, some queries, all keys."""
    length, _, num_heads, head_dim = qkv.shape
    scale = head_dim**-0.5
    tile = _tile_elements(qkv.dtype)
    num_rows = min(length, max(BLOCK_TOKENS, tile // length))
    tile_heads = max(1, min(num_heads, tile // (num_rows * length)))
    # Each [H, L, D], and contiguous because products of strided matrices are slow.
    query, key, value = qkv.permute(1, 2, 0, 3).contiguous()
    query = query * scale
    grad_o = grad_out.transpose(0, 1).contiguous()
    # In bfloat16, sums over many tiles would lose precision.
    sum_dtype = qkv.dtype if num_rows == length else torch.promote_types(qkv.dtype, torch.float32)
    for head in range(0, num_heads, tile_heads):
        heads = slice(head, head + tile_heads)
        grad_key = torch.zeros_like(key[heads], dtype=sum_dtype)
        grad_value = torch.zeros_like(grad_key)
        for row in range(0, length, num_rows):
            rows = slice(row, row + num_rows)
            q, do = query[heads, rows], grad_o[heads, rows]
            scores = torch.bmm(q, key[heads].mT)
            if causal:
                future = torch.ones(scores.shape[1:], dtype=torch.bool, device=q.device).triu(row + 1)
                scores.masked_fill_(future, float("-inf"))
            probs = torch.softmax(scores, dim=-1)
            grad_value += torch.bmm(probs.mT, do)
            grad_scores = _softmax_backward(torch.bmm(do, value[heads].mT), probs)
            grad[rows, 0, heads] = (torch.bmm(grad_scores, key[heads]) * scale).transpose(0, 1)
            grad_key += torch.bmm(grad_scores.mT, q)
        grad[:, 1, heads] = grad_key.transpose(0, 1)
        grad[:, 2, heads] = grad_value.transpose(0, 1)


def _local_forward(qkv: torch.Tensor, cu_seqlens: torch.Tensor, window: int, causal: bool) -> torch.Tensor:
    num_tokens, _, num_heads, head_dim = qkv.shape
    reach = -(-window // BLOCK_TOKENS)
    bias = band_bias(cu_seqlens, num_tokens, window, causal, qkv.dtype)  # [B, C, W]
    out = qkv.new_empty(num_tokens, num_heads, head_dim)
    for head in range(num_heads):  # one at a time, so that the padded copies stay small and in the cache
        padded = _padded_blocks(qkv[:, :, head], reach)
        query = padded[0, reach : reach + len(bias)]
        key, value = (_neighbourhoods(x, reach) for x in padded[1:])
        # As [B, 1, .., D]: blocks take the place of the batch, with one head each.
        attended = F.scaled_dot_product_attention(*(x.unsqueeze(1) for x in (query, key, value, bias)))
        out[:, head] = attended.flatten(0, 2)[:num_tokens]
    return out


def _local_backward(
    grad_out: torch.Tensor, qkv: torch.Tensor, cu_seqlens: torch.Tensor, window: int, causal: bool
) -> torch.Tensor:
    num_tokens, _, num_heads, head_dim = qkv.shape
    reach = -(-window // BLOCK_TOKENS)
    bias = band_bias(cu_seqlens, num_tokens, window, causal, qkv.dtype)
    grad = qkv.new_empty(qkv.shape)
    start = reach * BLOCK_TOKENS
    for head in range(num_heads):
        padded = _padded_blocks(qkv[:, :, head], reach)
        padded[0] *= head_dim**-0.5
        padded_grad = torch.zeros_like(padded)
        _head_backward(_padded_blocks(grad_out[:, None, head], 0)[0], padded, bias, padded_grad)
        padded_grad[0] *= head_dim**-0.5
        grad[:, :, head] = padded_grad.flatten(1, 2)[:, start : start + num_tokens].transpose(0, 1)
    return grad


def _head_backward(grad_out: torch.Tensor, qkv: torch.Tensor, bias: torch.Tensor, grad: torch.Tensor) -> None:
    """Add one head's gradient to `grad` [3, reach + B + reach, C, D], some of the B blocks at a time."""
    num_blocks, block, width = bias.shape
    reach = (width // block - 1) // 2
    step = max(1, _tile_elements(qkv.dtype) // (block * width))
    for first in range(0, num_blocks, step):
        last = min(num_blocks, first + step)
        own = slice(reach + first, reach + last)
        around = qkv[1:, first : last + 2 * reach]
        key, value = (_neighbourhoods(x, reach).contiguous() for x in around)  # [b, W, D]
        query, do = qkv[0, own], grad_out[first:last]
        probs = torch.softmax(torch.baddbmm(bias[first:last], query, key.mT), dim=-1)
        grad_scores = _softmax_backward(torch.bmm(do, value.mT), probs)
        grad[0, own] = torch.bmm(grad_scores, key)
        parts = torch.bmm(grad_scores.mT, query), torch.bmm(probs.mT, do)  # of key and value, each [b, W, D]
        for offset in range(2 * reach + 1):  # sum over the blocks that see a key
            seen = slice(offset * block, (offset + 1) * block)
            for kind, part in enumerate(parts, start=1):
                grad[kind, first + offset : last + offset] += part[:, seen]


def _padded_blocks(x: torch.Tensor, reach: int) -> torch.Tensor:
    """Cut [T, K, D] into blocks, with `reach` blocks of zeros at both ends: [K, reach + B + reach, C, D]."""
    num_tokens, num_kinds, head_dim = x.shape
    num_blocks = -(-num_tokens // BLOCK_TOKENS)
    start = reach * BLOCK_TOKENS
    padded = x.new_empty(num_kinds, (num_blocks + 2 * reach) * BLOCK_TOKENS, head_dim)
    padded[:, :start] = 0
    padded[:, start : start + num_tokens] = x.transpose(0, 1)
    padded[:, start + num_tokens :] = 0
    return padded.unflatten(1, (-1, BLOCK_TOKENS))


def _neighbourhoods(x: torch.Tensor, reach: int) -> torch.Tensor:
    """View the keys that each block may see: [reach + B + reach, C, D] -> [B, W = (2 reach + 1) C, D]."""
    num_blocks, block, head_dim = x.shape
    size = (num_blocks - 2 * reach, (2 * reach + 1) * block, head_dim)
    return x.as_strided(size, (block * head_dim, head_dim, 1), x.storage_offset())


def band_bias(
    cu_seqlens: torch.Tensor, num_tokens: int, window: int, causal: bool, dtype: torch.dtype
) -> torch.Tensor:
    """Build the mask of local layers, to be added to the scores of each block.

    A query sees the keys of its document that are at most `window` tokens away, itself included, and no later ones if
    `causal`. The slots after the last token count as one more document, so that no row is empty.

    Returns:
        [B, C, W]: 0 where a query sees a key, else -inf.
    """
    bounds = cu_seqlens.cpu().numpy().tobytes()
    return _cached_band_bias(bounds, num_tokens, window, causal, dtype, cu_seqlens.device)


# All local layers of a micro-batch use the same mask, forward and backward.
@lru_cache(maxsize=2)
def _cached_band_bias(
    cu_seqlens: bytes, num_tokens: int, window: int, causal: bool, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    reach = -(-window // BLOCK_TOKENS)
    num_blocks = -(-num_tokens // BLOCK_TOKENS)
    num_slots = num_blocks * BLOCK_TOKENS
    bounds = np.append(np.frombuffer(cu_seqlens, dtype=np.int32), num_slots)
    lengths = np.diff(bounds)
    slots = np.arange(num_slots)
    first = np.maximum(np.repeat(bounds[:-1], lengths), slots - window)
    last = np.minimum(np.repeat(bounds[1:], lengths) - 1, slots if causal else slots + window)
    keys = (np.arange(num_blocks)[:, None] - reach) * BLOCK_TOKENS + np.arange((2 * reach + 1) * BLOCK_TOKENS)
    blocked = (num_blocks, BLOCK_TOKENS, 1)
    first, last = (torch.from_numpy(x).to(device).view(blocked) for x in (first, last))
    key = torch.from_numpy(keys).to(device).unsqueeze(1)
    hidden = (key < first) | (key > last)
    return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))


def _softmax_backward(grad_probs: torch.Tensor, probs: torch.Tensor) -> torch.Tensor:
    """Return the gradient with respect to the scores, P * (dP - sum(P * dP)), in one pass."""
    return torch.ops.aten._softmax_backward_data(grad_probs, probs, -1, probs.dtype)


def _tile_elements(dtype: torch.dtype) -> int:
    elements = _TILE_ELEMENTS_16_BIT if dtype.itemsize == 2 else _TILE_ELEMENTS_32_BIT
    return torch.get_num_threads() * elements
