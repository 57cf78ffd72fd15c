"""Tables about a run from its records, which reports and model cards share: architecture, phases, held-out scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modernbert_train.common.tables import Cell, Column, Shown, Table
from modernbert_train.config.architecture import describe_switches, mlp_name, num_parameters
from modernbert_train.config.mixture import describe_mixture
from modernbert_train.config.schema import ModelConfig
from modernbert_train.objectives import OBJECTIVES, MaskedLM

# Scores of a source, in the order of the table; those that a record lacks are left out.
SCORES = {
    "loss": Column("loss (nats)", ".3f"),
    "loss_error": Column("standard error", ".3f"),
    "unigram_loss": Column("unigram loss", ".3f"),
    "gain": Column("below unigram", "+.3f"),
    "accuracy": Column("accuracy", ".1%"),
    "unigram_accuracy": Column("baseline accuracy", ".1%"),
    "perplexity": Column("perplexity", ",.1f"),
    "bits_per_byte": Column("bits per byte", ".3f"),
}
UNIGRAM = "The unigram baseline only knows how frequent tokens are."
# With more sources, a phase's mixture is no longer a text.
MOST_SOURCES_IN_TEXT = 8


def architecture_table(model: ModelConfig, thetas: tuple[float, float] | None = None) -> Table:
    """Return the facts of a model.

    Args:
        model: The model.
        thetas: RoPE bases of global and local layers; None: those of the model.
    """
    every_n = model.global_attn_every_n_layers
    reach = {"global attention": "every layer" if every_n == 1 else f"every {every_n} layers"}
    if every_n > 1:
        reach["local attention"] = f"{model.local_attention} tokens wide"
    if model.positions == "rope":
        bases = thetas or (model.global_rope_theta, model.local_rope_theta)
        for kind, theta in zip(reach, bases, strict=False):
            reach[kind] += f", theta {theta:,.0f}"
    numbers = {
        "parameters": num_parameters(model),
        "layers": model.num_hidden_layers,
        "hidden size": model.hidden_size,
        "attention heads": model.num_attention_heads,
        f"{mlp_name(model)} size": model.intermediate_size,
        "vocabulary": model.vocab_size,
    }
    facts: dict[str, Cell] = {name: Shown(number, f"{number:,}") for name, number in numbers.items()}
    facts |= reach
    if switches := describe_switches(model):
        facts["differences from ModernBERT"] = ", ".join(switches)
    return Table.of_facts(facts)


def phases_table(phases: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return a line for each phase of a resolved recipe, as its YAML has them."""
    columns = [
        Column("phase"),
        Column("tokens", ","),
        Column("context", ","),
        Column("global theta", ",.0f"),
        Column("masked", ".0%"),
        Column("learning rate", "g"),
    ]
    describes = all(_num_sources(phase["mixture"]) <= MOST_SOURCES_IN_TEXT for phase in phases.values())
    rows = []
    for name, phase in phases.items():
        objective = OBJECTIVES[phase.get("objective", MaskedLM.name)]
        row: tuple[Cell, ...] = (
            name,
            phase["tokens"],
            phase["context_tokens"],
            phase["global_rope_theta"],
            phase["mask_rate"] if objective.reads_mask_rate else objective.title,
            phase["learning_rate"],
        )
        rows.append((*row, describe_mixture(phase["mixture"])) if describes else row)
    return Table((*columns, Column("data")) if describes else tuple(columns), tuple(rows))


def _num_sources(mixture: Mapping[str, Any]) -> int:
    return len(mixture.get("epochs", mixture))


def scores_table(scores: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the scores of each source that has any: those that all of them have, and the gain over the baseline."""
    measured = {
        source: {**score, "gain": score["unigram_loss"] - score["loss"]} if "unigram_loss" in score else score
        for source, score in scores.items()
        if score is not None and score.get("loss") is not None
    }
    known = [name for name in SCORES if all(score.get(name) is not None for score in measured.values())]
    columns = (Column("source"), *(SCORES[name] for name in known))
    rows = tuple((source, *(score[name] for name in known)) for source, score in measured.items())
    return Table(columns, rows)
