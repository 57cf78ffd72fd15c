"""README.md of an exported model: what it is, what it was trained on, how to load it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from modernbert_train.checkpoints.hf.config import hf_class
from modernbert_train.checkpoints.info import CheckpointInfo
from modernbert_train.checkpoints.run_files import METRICS_FILE, RECIPE_FILE
from modernbert_train.config import ModelConfig
from modernbert_train.config.architecture import describe_switches, mlp_name
from modernbert_train.config.mixture import describe_mixture
from modernbert_train.objectives import OBJECTIVES, MaskedLM

HEADER = """\
---
library_name: transformers
pipeline_tag: fill-mask
tags:
- {model_type}
- masked-lm
- encoder
---
"""


def model_card(name: str, info: CheckpointInfo, num_parameters: int, run: Path) -> str:
    """The card of a checkpoint, from recipe.yaml and metrics.jsonl of its run, if any."""
    recipe_text = _read(run / RECIPE_FILE)
    scores = latest_evaluation(run / METRICS_FILE, info.step)
    model = info.model
    family = "BERT" if hf_class(model) == "BertForMaskedLM" else "ModernBERT"
    sections = [HEADER.format(model_type=family.lower()), f"# {name}\n"]
    sections += [_summary(info, family, num_parameters), _usage(info.context_tokens)]
    sections.append(_architecture(model, info, num_parameters))
    if recipe_text is not None:
        sections.append(_training(info, yaml.safe_load(recipe_text)))
    if scores is not None:
        sections.append(_evaluation(scores))
    if recipe_text is not None:
        sections.append(
            f"## Recipe\n\nThe whole recipe, as it was run:\n\n```yaml\n{recipe_text.strip()}\n```\n"
        )
    return "\n".join(sections)


def latest_evaluation(metrics: Path, step: int) -> dict[str, Any] | None:
    """The last masked-LM scores of held-out text in metrics.jsonl, up to step `step`; None if there are none."""
    text = _read(metrics) or ""
    # A last line without its end is being written by a run that still goes on.
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    evaluations = [
        line
        for line in lines
        if "eval" in line and line["step"] <= step and line.get("objective", MaskedLM.name) == MaskedLM.name
    ]
    return evaluations[-1] if evaluations else None


def _summary(info: CheckpointInfo, family: str, num_parameters: int) -> str:
    return (
        f"A {family} encoder with {num_parameters:,} parameters, pretrained on {info.tokens:,} tokens, last by "
        f"masked language modelling with documents of up to {info.context_tokens:,} tokens.\n\n"
        + (
            f"Its weights are {info.merged}.\n"
            if info.merged is not None
            else f"This is the checkpoint after optimizer step {info.step:,}, in the phase `{info.phase}`.\n"
        )
    )


def _usage(context_tokens: int) -> str:
    return (
        "## Use\n\n```python\nfrom transformers import AutoModelForMaskedLM, AutoTokenizer\n\n"
        'path = "PATH"  # this folder\n'
        "tokenizer = AutoTokenizer.from_pretrained(path)\n"
        "model = AutoModelForMaskedLM.from_pretrained(path)\n"
        'inputs = tokenizer(f"The library {tokenizer.mask_token} at nine.", return_tensors="pt")\n'
        "logits = model(**inputs).logits\n```\n\n"
        f"It was trained on texts of up to {context_tokens:,} tokens, the tokenizer's `model_max_length`. "
        "For classification, retrieval and token labels it is meant to be fine-tuned.\n"
    )


def _architecture(model: ModelConfig, info: CheckpointInfo, num_parameters: int) -> str:
    every_n = model.global_attn_every_n_layers
    reach = {"global attention": "every layer" if every_n == 1 else f"every {every_n} layers"}
    if every_n > 1:
        reach["local attention"] = f"{model.local_attention} tokens wide"
    if model.positions == "rope":
        for kind, theta in zip(reach, (info.global_rope_theta, info.local_rope_theta), strict=False):
            reach[kind] += f", theta {theta:,.0f}"
    rows = {
        "parameters": f"{num_parameters:,}",
        "layers": f"{model.num_hidden_layers}",
        "hidden size": f"{model.hidden_size:,}",
        "attention heads": f"{model.num_attention_heads}",
        f"{mlp_name(model)} size": f"{model.intermediate_size:,}",
        "vocabulary": f"{model.vocab_size:,}",
        **reach,
    }
    if switches := describe_switches(model):
        rows["other than in ModernBERT"] = ", ".join(switches)
    return "## Architecture\n\n" + _table(("", ""), list(rows.items()))


def _training(info: CheckpointInfo, recipe: Any) -> str:
    rows, phases = [], list(recipe["phases"].items())
    names = [phase_name for phase_name, _ in phases]
    done = phases[: names.index(info.phase) + 1] if info.phase in names else phases
    for phase_name, phase in done:
        objective = phase.get("objective", MaskedLM.name)
        rows.append(
            (
                phase_name,
                f"{phase['tokens']:,}",
                f"{phase['context_tokens']:,}",
                f"{phase['global_rope_theta']:,.0f}",
                f"{phase['mask_rate']:.0%}" if objective == MaskedLM.name else OBJECTIVES[objective].title,
                f"{phase['learning_rate']:g}",
                describe_mixture(phase["mixture"]),
            )
        )
    columns = (
        "phase",
        "tokens",
        "context",
        "global theta",
        "masked",
        "learning rate",
        "data",
    )
    sources = "".join(
        f"- `{source}`: {spec['store']}\n" for source, spec in recipe["data"]["sources"].items()
    )
    start = recipe["init"]["from"]
    origin = f"\nThe weights started from `{start}`.\n" if start else ""
    return f"## Training\n\n{_table(columns, rows)}{origin}\nSources of text:\n\n{sources}"


def _evaluation(scores: dict[str, Any]) -> str:
    rows = [(source, f"{s['loss']:.3f}", f"{s['accuracy']:.1%}") for source, s in scores["eval"].items()]
    heading = (
        f"## Evaluation\n\nMasked-LM on held-out text with fixed masks, after step {scores['step']:,}:\n\n"
    )
    return heading + _table(("source", "loss (nats)", "accuracy"), rows)


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
