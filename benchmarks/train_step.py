"""Compare training steps of this model and of Transformers' ModernBERT on the same documents, interleaved in one run.

    python -m benchmarks.train_step                                   # small model, bfloat16 autocast, this CPU
    python -m benchmarks.train_step --precision fp32 --compile
    python -m benchmarks.train_step --model base --tokens 4096 --repeats 2
    python -m benchmarks.train_step --device cuda --model base --tokens 98304 --compile --warmup 5 --repeats 20

A step is forward, backward and a fused AdamW update over documents of log-normal lengths, with 30% of the tokens masked
and no dropout. Tokens/s count real tokens, never padding: per second of CPU time on a CPU (set OMP_NUM_THREADS=1 for
the figure of one core), per second of wall time on a GPU. The variants:

    transformers, padded   four documents at a time, padded to the longest of them, logits at every position
    transformers, packed   documents in rows of the context, 4-D masks, logits at masked positions only: its fastest way
    ours                   concatenated documents, no padding, no mask, the backend that `auto` picks
    ours, compiled         the same under torch.compile (with --compile; the first step takes a minute on a CPU)

On a GPU whose peak is known, the table also shows the model FLOPs utilization (see `modernbert_train.planning.cost`).
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from benchmarks.attention import ragged_lengths, seconds
from modernbert_train.config import ModelConfig
from modernbert_train.model import ModernBertForMaskedLM, initialize_weights, resolve_backend
from modernbert_train.objectives import MaskedLM
from modernbert_train.planning.cost import peak_flops, training_flops_per_token

MODELS = {
    "small": ModelConfig(
        vocab_size=8192, hidden_size=256, num_hidden_layers=6, num_attention_heads=4, intermediate_size=384
    ),
    "base": ModelConfig(),
}
MASK_RATE = 0.3

# Computes the summed loss of all documents, and calls backward.
Loss = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Batch:
    """Documents as token ids, with labels that are -100 at unmasked positions."""

    documents: list[torch.Tensor]
    labels: list[torch.Tensor]
    context: int
    autocast: bool

    @property
    def device(self) -> torch.device:
        return self.documents[0].device

    def precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast)


def make_batch(options: argparse.Namespace, vocab_size: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    documents, labels = [], []
    for length in ragged_lengths(options.tokens, options.context):
        ids = torch.randint(1, vocab_size, (length,), generator=generator)
        masked = torch.rand(length, generator=generator) < MASK_RATE
        documents.append(ids.to(options.device))
        labels.append(torch.where(masked, ids, -100).to(options.device))
    return Batch(documents, labels, options.context, options.precision == "bf16")


def padded(model: torch.nn.Module, batch: Batch) -> Loss:
    """Run Transformers as most people use it."""
    groups = []
    for first in range(0, len(batch.documents), 4):
        documents, labels = (x[first : first + 4] for x in (batch.documents, batch.labels))
        pad = torch.nn.utils.rnn.pad_sequence
        mask = pad([torch.ones_like(document) for document in documents], batch_first=True)
        ids, targets = pad(documents, batch_first=True), pad(labels, batch_first=True, padding_value=-100)
        groups.append({"input_ids": ids, "attention_mask": mask, "labels": targets})
    return lambda: sum(summed_loss(model, batch, inputs) for inputs in groups)


def packed(model: torch.nn.Module, batch: Batch) -> Loss:
    """Run Transformers at its fastest: whole documents packed first-fit into rows, and no unnecessary work."""
    rows: list[list[int]] = []
    lengths = [len(document) for document in batch.documents]
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        fits = (row for row in rows if sum(lengths[i] for i in row) + lengths[index] <= batch.context)
        if (fitting := next(fits, None)) is None:
            rows.append([index])
        else:
            fitting.append(index)
    size = (len(rows), batch.context)
    ids = torch.zeros(size, dtype=torch.long, device=batch.device)
    labels, document = torch.full_like(ids, -100), torch.full_like(ids, -1)
    position = torch.arange(batch.context, device=batch.device).repeat(len(rows), 1)
    for row, members in enumerate(rows):
        start = 0
        for member in members:
            end = start + lengths[member]
            ids[row, start:end], labels[row, start:end] = batch.documents[member], batch.labels[member]
            document[row, start:end] = member
            position[row, start:end] = torch.arange(lengths[member], device=batch.device)
            start = end
    same = (document[:, :, None] == document[:, None, :]).unsqueeze(1)
    distance = torch.arange(batch.context, device=batch.device)
    near = (distance[:, None] - distance).abs() <= model.config.sliding_window
    masks = {"full_attention": same, "sliding_attention": same & near}
    inputs = {"input_ids": ids, "attention_mask": masks, "position_ids": position, "labels": labels}
    return lambda: summed_loss(model, batch, inputs)


def summed_loss(model: torch.nn.Module, batch: Batch, inputs: dict[str, Any]) -> torch.Tensor:
    num_targets = (inputs["labels"] != -100).sum()
    with batch.precision():
        loss = model(**inputs).loss * num_targets
    loss.backward()
    return loss.detach()


def unpadded(model: ModernBertForMaskedLM, batch: Batch, compiled: bool) -> Loss:
    """Run our model over the concatenated documents, as in training."""
    lengths = [len(document) for document in batch.documents]
    labels = torch.cat(batch.labels)
    positions = (labels != -100).nonzero().squeeze(1)
    cu_seqlens = torch.tensor([0, *lengths], device=batch.device).cumsum(0).to(torch.int32)
    inputs = {
        "input_ids": torch.cat(batch.documents),
        "position_ids": torch.cat([torch.arange(length) for length in lengths]).to(batch.device),
        "cu_seqlens": cu_seqlens,
        "max_seqlen": batch.context,
        "target_positions": positions,
        "labels": labels[positions],
    }
    loss_and_correct = torch.compile(model.loss_and_correct) if compiled else model.loss_and_correct

    def loss() -> torch.Tensor:
        with batch.precision():
            total, _ = loss_and_correct(**inputs)
        total.backward()
        return total.detach()

    return loss


def variants(options: argparse.Namespace, config: ModelConfig, batch: Batch) -> dict[str, tuple[Loss, list]]:
    """Return each variant's loss and weights; all models start from the same weights, without dropout."""
    ours = ModernBertForMaskedLM(config).to(options.device).eval()
    initialize_weights(ours, config, torch.Generator(options.device).manual_seed(0))
    shared = {name: getattr(config, name) for name in vars(config) if name != "attn_out_dropout"}
    theirs = []
    for sparse in (False, True):
        ids = dict.fromkeys(
            ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0
        )
        hf_config = transformers.ModernBertConfig(**shared, **ids, sparse_prediction=sparse)
        hf_config._attn_implementation = "sdpa"
        model = transformers.ModernBertForMaskedLM(hf_config).to(options.device).eval()
        model.load_state_dict(ours.state_dict())
        theirs.append(model)
    named = {
        "transformers, padded": (padded(theirs[0], batch), list(theirs[0].parameters())),
        "transformers, packed": (packed(theirs[1], batch), list(theirs[1].parameters())),
        "ours": (unpadded(ours, batch, compiled=False), list(ours.parameters())),
    }
    if options.compile:
        copy = ModernBertForMaskedLM(config).to(options.device).eval()
        copy.load_state_dict(ours.state_dict())
        named["ours, compiled"] = (unpadded(copy, batch, compiled=True), list(copy.parameters()))
    return named


def training_flops(config: ModelConfig, batch: Batch) -> float:
    """Return the model FLOPs of a step over all documents."""
    lengths = [len(document) for document in batch.documents]
    num_targets = sum(int((labels != -100).sum()) for labels in batch.labels)
    return sum(lengths) * training_flops_per_token(config, lengths, MaskedLM(num_targets / sum(lengths)))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, default="small")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--tokens", type=int, default=8192, help="tokens of a step, padding excluded")
    parser.add_argument(
        "--context", type=int, default=1024, help="tokens of the longest document and of a packed row"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="also run ours under torch.compile")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    transformers.logging.set_verbosity_error()
    device, config = torch.device(options.device), MODELS[options.model]
    batch = make_batch(options, config.vocab_size)
    named = variants(options, config, batch)
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads"
    )
    print(
        f"{options.model}, {options.precision}, {options.tokens} tokens in {len(batch.documents)} documents",
        end="",
    )
    print(f", attention backend {resolve_backend('auto', device)[0]} on {device}\n")
    times: dict[str, list[float]] = {name: [] for name in named}
    losses: dict[str, float] = {}
    optimizers = {
        name: torch.optim.AdamW(weights, lr=1e-6, fused=True) for name, (_, weights) in named.items()
    }
    for step in range(options.warmup + options.repeats):
        for name, (loss, _) in named.items():
            start = seconds(device)
            total = loss()
            optimizers[name].step()
            optimizers[name].zero_grad()
            if step >= options.warmup:
                times[name].append(seconds(device) - start)
            losses.setdefault(name, total.item() / options.tokens)
    report(times, losses, training_flops(config, batch), options.tokens)


def report(times: dict[str, list[float]], losses: dict[str, float], flops: float, num_tokens: int) -> None:
    """Print the table; ratios are to the first variant."""
    peak = peak_flops()
    print(f"{'':24}{'s / step':>10}{'tokens/s':>12}{'ratio':>8}{'loss / token':>14}{'MFU':>8}")
    first = statistics.median(next(iter(times.values())))
    for name, taken in times.items():
        median = statistics.median(taken)
        mfu = f"{flops / median / peak:8.1%}" if peak else f"{'-':>8}"
        print(
            f"{name:24}{median:10.3f}{num_tokens / median:12,.0f}{first / median:8.2f}{losses[name]:14.5f}{mfu}"
        )


if __name__ == "__main__":
    main()
