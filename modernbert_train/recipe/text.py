"""A chosen recipe as YAML, with a comment for each choice."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from modernbert_train.config import ModelConfig, format_tokens
from modernbert_train.config.architecture import describe_few_tokens, num_parameters
from modernbert_train.recipe.facts import Source, Text, Weights
from modernbert_train.recipe.rules import (
    FEWEST_STEPS,
    GPUS_PER_MACHINE,
    MOST_EPOCHS,
    TEMPERATURE,
    TOKENS_PER_PARAMETER,
    WARMUP_SHARE,
    Choice,
)

_WIDTH = 110
_SMALL = 50_000_000  # parameters


def write_recipe(
    choice: Choice, text: Text, weights: Weights | None, basis: str, command: str, name: str | None = None
) -> str:
    """Return the YAML of a recipe.

    Args:
        choice: What the rules say.
        text: What there is to read.
        weights: What to start from; None: random weights.
        basis: Where the tokens/s are from, in words.
        command: The command that was given.
        name: Name of the run; None: that of the first store.

    Returns:
        The text of the file.
    """
    parts = [
        _head(
            choice,
            text,
            weights,
            basis,
            command,
            name or _name(text.sources[0].store, [source.name for source in text.sources]),
        ),
        _model(choice) if weights is None else _start(weights, text),
        _data(choice, text),
        _phases(choice, text, weights),
        _rest(choice, text),
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _head(
    choice: Choice, text: Text, weights: Weights | None, basis: str, command: str, name: str
) -> Iterator[str]:
    machine = "this machine's CPU" if choice.num_gpus == 0 else _count(choice.num_gpus, "GPU")
    yield f"# Made by: {command}"
    yield "# Check this file, then train; the same command again resumes after a stop:"
    yield "#   modernbert train THIS_FILE --dry-run"
    yield f"#   {_launch(choice.num_gpus)} THIS_FILE"
    yield from _comment(
        f"{format_tokens(choice.tokens)} tokens in {choice.num_steps:,} steps take about {_hours(choice.hours)} on "
        f"{machine}, at {choice.tokens_per_s:,.0f} tokens/s{' per GPU' if choice.num_gpus > 1 else ''} ({basis})."
    )
    if choice.limited_by_text:
        yield from _comment(
            f"The text is the limit, not the hours: all of it is read {MOST_EPOCHS} times. Up to there, repeated text "
            "is nearly as good as new text (Muennighoff et al. 2023, 2305.16264). Beyond, more text helps, and more "
            "hours hardly do."
        )
    if note := describe_short_run(choice, text, weights):
        yield from _comment(f"{note[0].upper()}{note[1:]}.")
    yield f"name: {json.dumps(name)}  # the run is in runs/NAME; another run needs another name (--name)"


def _name(store: str, sources: Sequence[str]) -> str:
    """Return the name of a run: that of the store's folder, or of the sources if that is only called store."""
    name = PurePosixPath(store).name
    if name in ("", "store"):
        name = "-".join(sources[:3])
    return re.sub("[^A-Za-z0-9._-]+", "-", name).strip("-._") or "encoder"


def describe_short_run(choice: Choice, text: Text, weights: Weights | None) -> str:
    """Return what a run with fewer tokens than parameters comes to, and what more would take; empty for other runs."""
    few = describe_few_tokens(choice.model, choice.tokens)
    if weights is not None or few is None:
        return ""
    needed = TOKENS_PER_PARAMETER * num_parameters(choice.model)
    note = (
        f"{few}; at this speed about {_hours(choice.hours * needed / choice.tokens)} give {TOKENS_PER_PARAMETER} "
        "tokens per parameter"
    )
    text_needed = -(-needed // MOST_EPOCHS)
    if text.num_tokens < text_needed:
        note += (
            f" from {format_tokens(text_needed)} tokens of text, read {MOST_EPOCHS} times; the stores have "
            f"{format_tokens(text.num_tokens)}"
        )
    return note


def _comment(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _launch(num_gpus: int) -> str:
    if num_gpus <= 1:
        return "modernbert train"
    if num_gpus <= GPUS_PER_MACHINE:
        return f"composer -n {num_gpus} -m modernbert_train train"
    return f"sbatch --nodes={-(-num_gpus // GPUS_PER_MACHINE)} docker/slurm.sbatch"


def _model(choice: Choice) -> Iterator[str]:
    model = choice.model
    yield from _comment(
        f"{num_parameters(model):,} parameters, the size of yamls/models/{choice.size.file}.yaml: the largest of those "
        f"sizes that gets {TOKENS_PER_PARAMETER} tokens per parameter (Hoffmann et al. 2022, 2203.15556), or the "
        "smallest."
    )
    yield "model:"
    yield f"  vocab_size: {model.vocab_size}  # that of the tokenizer, rounded up to a multiple of 64"
    yield f"  hidden_size: {model.hidden_size}"
    yield f"  num_hidden_layers: {model.num_hidden_layers}"
    yield f"  num_attention_heads: {model.num_attention_heads}"
    yield f"  intermediate_size: {model.intermediate_size}"
    if model.initializer_range != ModelConfig.initializer_range:
        yield f"  initializer_range: {model.initializer_range:g}  # 0.55 / sqrt(hidden_size), as that of base"


def _start(weights: Weights, text: Text) -> Iterator[str]:
    yield "# The model is that of the weights, so its sizes are left out here."
    yield "init:"
    yield f"  from: {json.dumps(weights.path)}"
    if weights.tokenizer_fingerprint != text.tokenizer_fingerprint:
        yield "  # The store has another tokenizer: the embeddings of the tokens that both have are carried over."
        yield "  transplant: true"


def _data(choice: Choice, text: Text) -> Iterator[str]:
    yield "data:"
    yield f"  tokenizer: {json.dumps(text.sources[0].store)}  # a store has a copy of its tokenizer"
    yield "  sources:"
    for source in text.sources:
        inside = (
            "" if source.name == source.name_in_store else f", source: {json.dumps(source.name_in_store)}"
        )
        yield f"    {source.name}: {{store: {json.dumps(source.store)}{inside}}}  # {_contents(source)}"
    device = "GPUs" if choice.num_gpus else "processes"
    yield f"  num_streams: {choice.num_streams}  # every number of {device} up to it trains on the same batches"
    if choice.num_canonical_nodes > 1:
        yield f"  num_canonical_nodes: {choice.num_canonical_nodes}  # a machine downloads only its share of the shards"
    if choice.num_gpus == 0:
        yield "  num_workers: 1  # loader processes; training needs the other cores"


def _contents(source: Source) -> str:
    held_out = "" if source.has_held_out else ", nothing held out"
    return (
        f"{format_tokens(source.num_tokens)} tokens in {_count(source.num_documents, 'document')}{held_out}"
    )


def _phases(choice: Choice, text: Text, weights: Weights | None) -> Iterator[str]:
    yield "phases:"
    yield "  pretrain:"
    yield f"    tokens: {choice.pretrain_tokens:_}"
    yield f"    # Longer documents are cut into pieces; 95% of them have up to {text.p95_tokens:,} tokens."
    yield f"    context_tokens: {choice.context_tokens}"
    yield f"    row_tokens: {choice.row_tokens}  # pieces are packed into rows of this length"
    yield from _comment(
        f"{_count(choice.batch_tokens // choice.row_tokens, 'row')}: 0.292 C^0.327 tokens for C training FLOPs "
        f"(DeepSeek LLM 2024, 2401.02954), but at most a {FEWEST_STEPS}th of the run; rounded down.",
        "    ",
    )
    yield f"    batch_tokens: {choice.batch_tokens:_}"
    yield "    # Tokens of one pass: changes speed and memory, not the result. Halve it if memory runs out."
    yield f"    micro_batch_tokens: {choice.micro_batch_tokens:_}"
    size = choice.size
    rate = f"for models of this size: {size.source}"
    if weights is not None:
        share = size.continued_rate / size.learning_rate
        rate = f"{share:.2g} x {size.learning_rate:g}, that of a start from random weights ({size.source})"
    yield f"    learning_rate: {choice.learning_rate:g}  # {rate}"
    yield f"    warmup_tokens: {choice.warmup_tokens:_}  # {WARMUP_SHARE:.0%} of all tokens (MosaicBERT, 2312.17482)"
    yield "    mask_rate: 0.3  # ModernBERT (2412.13663)"
    if weights is not None:
        yield f"    global_rope_theta: {weights.global_rope_theta:_.0f}  # as the weights were trained"
        yield f"    local_rope_theta: {weights.local_rope_theta:_.0f}"
    yield from _mixture(choice, text)
    if choice.extension_tokens:
        yield ""
        yield from _comment(
            f"{text.long_share:.0%} of the tokens are in documents longer than 1,024, so a tenth of the run has a "
            "longer context, with a larger RoPE theta in the global layers (ModernBERT, 2412.13663).",
            "  ",
        )
        yield "  extension:"
        yield f"    tokens: {choice.extension_tokens:_}"
        yield "    context_tokens: 8192"
        yield "    global_rope_theta: 160_000"
    yield ""
    yield from _comment(
        "The last fifth: the learning rate falls to 0 (Hägele et al. 2024, 2405.18392), and fewer tokens are masked "
        "(2305.15096).",
        "  ",
    )
    yield "  decay:"
    yield f"    tokens: {choice.decay_tokens:_}"
    yield f"    decay_tokens: {choice.decay_tokens:_}"
    yield "    mask_rate: 0.15"


def _mixture(choice: Choice, text: Text) -> Iterator[str]:
    if len(text.sources) > 1:
        yield from _comment(
            f"Shares proportional to tokens^{TEMPERATURE} (mmBERT 2025, 2509.06888), where that reads no source more "
            f"than {MOST_EPOCHS} times.",
            "    ",
        )
    yield "    mixture:"
    for source in text.sources:
        share = choice.shares[source.name]
        epochs = share * choice.tokens / source.num_tokens
        yield f"      {source.name}: {share:.4g}  # read {epochs:.2g} times over the run"


def _rest(choice: Choice, text: Text) -> Iterator[str]:
    held_out = [source.name for source in text.sources if source.has_held_out]
    yield "evaluation:"
    if held_out:
        often = "" if choice.evaluate_every_tokens else "only at the end of each phase, "
        yield f"  every_tokens: {choice.evaluate_every_tokens:_}  # {often}on held-out text of {', '.join(held_out)}"
        most = format_tokens(choice.max_rows * choice.row_tokens)
        yield f"  max_rows: {choice.max_rows}  # up to {most} tokens of each source, also in `modernbert evaluate`"
        yield f"  # Evaluation takes about {max(0.01, choice.evaluation_share):.0%} of the time."
    else:
        yield "  every_tokens: 0  # no text is held out; `data_prep tokenize --valid-fraction` sets some aside"
    yield ""
    # Checkpoints of a small model take little space.
    keep = 5 if num_parameters(choice.model) < _SMALL else 2
    yield "training:"
    yield f"  save_every_tokens: {choice.save_every_tokens:_}  # a tenth of the run, at most an hour"
    yield f"  keep_checkpoints: {keep}  # `modernbert rewind` goes back to those kept, and to the last of each phase"
    if choice.num_gpus == 0:
        yield "  device: cpu"
    else:
        yield "  compile: true  # takes a minute or two at the start, and makes every step faster"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _hours(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.2g} hours" if hours < 100 else f"{hours:,.0f} hours"
    return f"{hours * 60:.2g} minutes" if hours * 60 >= 1 else _count(max(1, round(hours * 3_600)), "second")
