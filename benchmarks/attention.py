"""Compare ways to compute attention over packed documents, forward and backward, on this machine.

    python -m benchmarks.attention                       # 8,192 tokens of ragged documents, float32 and bfloat16
    python -m benchmarks.attention --context 8192 --tokens 16384
    python -m benchmarks.attention --device cuda --heads 12 --tokens 98304 --dtypes bfloat16

Times are medians over interleaved runs: CPU time on a CPU (set OMP_NUM_THREADS=1 for the figure of one core), wall time
until the kernels have finished on a GPU. `ratio` is the time of the first way divided by that of the row. Errors are
differences from the first way in float64: the maximum for the output, the relative norm for the gradient.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F

from modernbert_train.model import attention_torch, resolve_backend
from modernbert_train.model.attention import attention
from modernbert_train.model.backends import BACKENDS

Way = Callable[[torch.Tensor, torch.Tensor, int | None], torch.Tensor]


def ragged_lengths(num_tokens: int, context: int, seed: int = 0) -> list[int]:
    """Draw log-normal document lengths, median a third of `context`, at most `context`, `num_tokens` in all."""
    generator = torch.Generator().manual_seed(seed)
    lengths: list[int] = []
    while (left := num_tokens - sum(lengths)) > 0:
        length = int(torch.empty(()).log_normal_(math.log(context / 3.1), 1.0, generator=generator))
        lengths.append(max(1, min(length, context, left)))
    return lengths


def per_document_sdpa(qkv: torch.Tensor, cu_seqlens: torch.Tensor, window: int | None) -> torch.Tensor:
    """Call scaled_dot_product_attention for every document, with a mask if there is a window."""
    outputs = []
    for document in qkv.split(cu_seqlens.diff().tolist()):
        query, key, value = document.permute(1, 2, 0, 3).unsqueeze(1)
        mask = None if window is None else _band(len(document), window, qkv.device)
        outputs.append(F.scaled_dot_product_attention(query, key, value, attn_mask=mask)[0].transpose(0, 1))
    return torch.cat(outputs)


def masked_rows_sdpa(qkv: torch.Tensor, cu_seqlens: torch.Tensor, window: int | None) -> torch.Tensor:
    """Pack whole documents into rows of 1,024 tokens (or the longest document) with block-diagonal masks."""
    lengths = cu_seqlens.diff().tolist()
    row_tokens = max(1024, *lengths)
    rows: list[list[int]] = [[]]
    for length in lengths:
        if sum(rows[-1]) + length > row_tokens:
            rows.append([])
        rows[-1].append(length)
    outputs = []
    for part, row in zip(qkv.split([sum(row) for row in rows]), rows, strict=True):
        document = torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)).to(qkv.device)
        mask = document[:, None] == document
        if window is not None:
            mask &= _band(len(part), window, qkv.device)
        query, key, value = part.permute(1, 2, 0, 3).unsqueeze(1)
        outputs.append(F.scaled_dot_product_attention(query, key, value, attn_mask=mask)[0].transpose(0, 1))
    return torch.cat(outputs)


def nested_sdpa(qkv: torch.Tensor, cu_seqlens: torch.Tensor, window: int | None) -> torch.Tensor | None:
    """Use jagged nested tensors, which do not support windows."""
    if window is not None:
        return None
    query, key, value = (
        torch.nested.nested_tensor_from_jagged(x.contiguous(), cu_seqlens.long()).transpose(1, 2)
        for x in qkv.unbind(1)
    )
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).values()


def per_document_math(qkv: torch.Tensor, cu_seqlens: torch.Tensor, window: int | None) -> torch.Tensor:
    """Compute matrix products and softmax for every document; autograd saves the probabilities."""
    outputs = []
    for document in qkv.split(cu_seqlens.diff().tolist()):
        query, key, value = document.permute(1, 2, 0, 3).contiguous()
        scores = torch.bmm(query * qkv.shape[-1] ** -0.5, key.mT)
        if window is not None:
            scores = scores.masked_fill(~_band(len(document), window, qkv.device), float("-inf"))
        outputs.append(torch.bmm(torch.softmax(scores, dim=-1), value).transpose(0, 1))
    return torch.cat(outputs)


def banded_math(qkv: torch.Tensor, cu_seqlens: torch.Tensor, window: int | None) -> torch.Tensor | None:
    """Multiply blocks of queries with three blocks of keys, for a window of one block; autograd saves probabilities."""
    block = attention_torch.BLOCK_TOKENS
    if window != block:
        return None
    num_tokens, _, num_heads, head_dim = qkv.shape
    bias = attention_torch.band_bias(cu_seqlens, num_tokens, window, False, qkv.dtype)
    num_blocks = len(bias)
    padded = F.pad(qkv, (0, 0, 0, 0, 0, 0, block, (num_blocks + 1) * block - num_tokens)).permute(1, 2, 0, 3)
    blocks = padded.unflatten(2, (num_blocks + 2, block))  # [3, H, 1 + B + 1, C, D]
    query, *around = (
        torch.cat([x[:, first : first + num_blocks] for first in firsts], dim=2).flatten(0, 1)
        for x, firsts in zip(blocks, ((1,), (0, 1, 2), (0, 1, 2)), strict=True)
    )
    scores = torch.baddbmm(bias.repeat(num_heads, 1, 1), query, around[0].mT, alpha=head_dim**-0.5)
    attended = torch.bmm(torch.softmax(scores, dim=-1), around[1])
    return attended.view(num_heads, -1, head_dim)[:, :num_tokens].transpose(0, 1)


def flex(qkv: torch.Tensor, cu_seqlens: torch.Tensor, window: int | None) -> torch.Tensor:
    """Use FlexAttention, compiled at the first call; its backward pass needs a GPU."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    document = torch.repeat_interleave(torch.arange(len(cu_seqlens) - 1).to(qkv.device), cu_seqlens.diff())

    def sees(batch: int, head: int, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        same = document[query] == document[key]
        return same if window is None else same & ((query - key).abs() <= window)

    mask = create_block_mask(sees, None, None, len(qkv), len(qkv), device=qkv.device.type)
    query, key, value = qkv.permute(1, 2, 0, 3).unsqueeze(1)
    return torch.compile(flex_attention)(query, key, value, block_mask=mask)[0].transpose(0, 1)


def _band(length: int, window: int, device: torch.device) -> torch.Tensor:
    position = torch.arange(length, device=device)
    return (position[:, None] - position).abs() <= window


def _by_backend(backend: str, qkv: torch.Tensor, cu: torch.Tensor, window: int | None) -> torch.Tensor:
    return attention(qkv, cu, int(cu.diff().max()), window, backend)


def ways(device: torch.device, with_flex: bool) -> dict[str, Way]:
    """Return the ways that run on the device, the plain loop first."""
    named: dict[str, Way] = {
        "per-document SDPA, autograd": per_document_sdpa,
        "rows with block-diagonal mask": masked_rows_sdpa,
        "jagged nested tensors": nested_sdpa,
        "per-document math, saved P": per_document_math,
        "banded blocks, saved P": banded_math,
    }
    if with_flex:
        named["FlexAttention, compiled"] = flex
    for backend in BACKENDS[1:]:
        try:
            resolve_backend(backend, device)
        except ValueError as problem:
            print(f"skipping {backend}: {problem}")
            continue
        named[f"backend {backend}"] = partial(_by_backend, backend)
    return named


def seconds(device: torch.device) -> float:
    """Read the clock: CPU time of this process, or wall time once the GPU is idle."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def measure(
    way: Way, qkv: torch.Tensor, grad: torch.Tensor, cu: torch.Tensor, window: int | None
) -> list[float]:
    """Return the seconds of forward and backward pass, or an empty list if the way does not support the case."""
    start = seconds(qkv.device)
    out = way(qkv, cu, window)
    if out is None:
        return []
    middle = seconds(qkv.device)
    qkv.grad = None
    out.backward(grad)
    return [middle - start, seconds(qkv.device) - middle]


def errors(
    way: Way, qkv: torch.Tensor, grad: torch.Tensor, cu: torch.Tensor, window: int | None
) -> list[float]:
    """Return the largest error of the output and the relative error of the gradient, against float64 on the CPU."""
    exact = qkv.detach().cpu().double().requires_grad_()
    expected = per_document_sdpa(exact, cu.cpu(), window)
    expected.backward(grad.cpu().double())
    qkv.grad = None
    out = way(qkv, cu, window)
    out.backward(grad)
    difference = qkv.grad.cpu().double() - exact.grad
    return [
        (out.detach().cpu().double() - expected).abs().max().item(),
        (difference.norm() / exact.grad.norm()).item(),
    ]


def compare(
    named: dict[str, Way], qkv: torch.Tensor, cu: torch.Tensor, window: int | None, repeats: int
) -> None:
    """Print the table of one case."""
    grad = torch.randn_like(qkv[:, 0])
    times: dict[str, list[list[float]]] = {name: [] for name in named}
    problems: dict[str, str] = {}
    for repeat in range(repeats + 1):  # the first round warms up
        for name, way in named.items():
            if name in problems:
                continue
            try:
                if (taken := measure(way, qkv, grad, cu, window)) and repeat > 0:
                    times[name].append(taken)
            except (NotImplementedError, RuntimeError) as problem:
                problems[name] = str(problem).split(".")[0]
    kind = "global" if window is None else f"local ({window})"
    print(f"\n{kind}, {str(qkv.dtype).removeprefix('torch.')}, {qkv.shape[2]} heads of {qkv.shape[3]}")
    print(f"{'':32}{'fwd ms':>9}{'bwd ms':>9}{'ratio':>7}{'out error':>11}{'grad error':>12}")
    first = sum(statistics.median(column) for column in zip(*times[next(iter(named))], strict=True))
    for name, way in named.items():
        if name in problems:
            print(f"{name:32}  {problems[name]}")
        elif times[name]:
            passes = [statistics.median(column) for column in zip(*times[name], strict=True)]
            out_error, grad_error = errors(way, qkv, grad, cu, window)
            numbers = f"{passes[0] * 1e3:9.1f}{passes[1] * 1e3:9.1f}{first / sum(passes):7.2f}"
            print(f"{name:32}{numbers}{out_error:11.1e}{grad_error:12.1e}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--context", type=int, default=1024, help="tokens of the longest document")
    parser.add_argument("--heads", type=int, default=4, help="number of heads, of 64 dimensions each")
    parser.add_argument("--window", type=int, default=64, help="tokens to either side in local layers")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--flex", action="store_true", help="also run FlexAttention (its backward pass needs a GPU)"
    )
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    lengths = ragged_lengths(options.tokens, options.context)
    cu = torch.tensor([0, *lengths], device=device).cumsum(0).to(torch.int32)
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads")
    print(f"{options.tokens} tokens in {len(lengths)} documents of {min(lengths)} to {max(lengths)} tokens")
    named = ways(device, options.flex)
    for dtype in options.dtypes:
        for window in (None, options.window):
            torch.manual_seed(0)
            qkv = torch.randn(
                options.tokens, 3, options.heads, 64, device=device, dtype=getattr(torch, dtype)
            )
            compare(named, qkv.requires_grad_(), cu, window, options.repeats)


if __name__ == "__main__":
    main()
