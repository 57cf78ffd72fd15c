"""The README.md of an exported model: what it is, what it was trained on, how to load it."""

import json
import logging
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import yaml

from modernbert_train.checkpoints.hf.config import hf_class
from modernbert_train.checkpoints.info import CheckpointInfo
from modernbert_train.checkpoints.run_files import EVALUATION_FILE, METRICS_FILE, RECIPE_FILE, read_metrics
from modernbert_train.checkpoints.tables import (
    SCORES,
    UNIGRAM,
    architecture_table,
    phases_table,
    scores_table,
)
from modernbert_train.common.redaction import redact
from modernbert_train.common.text import one_line
from modernbert_train.config.architecture import num_parameters
from modernbert_train.objectives import OBJECTIVES, MaskedLM

_T = TypeVar("_T")
log = logging.getLogger(__name__)

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


def model_card(name: str, info: CheckpointInfo, run: Path) -> str:
    """Return the card of a checkpoint.

    Args:
        name: The heading if there is no recipe, which has the name of the run.
        info: The facts about the checkpoint.
        run: Its folder; recipe.yaml, evaluation.json and metrics.jsonl are used where they exist.
    """
    title, training, whole = _read(run / RECIPE_FILE, partial(_of_recipe, info=info)) or (name, None, None)
    evaluation = _read(run / EVALUATION_FILE, lambda file: _evaluation(_scores_of(file, info), info))
    if not evaluation:
        metrics = run / METRICS_FILE
        evaluation = _read(metrics, lambda file: _evaluation(latest_evaluation(file, info), info))
    family = "BERT" if hf_class(info.model) == "BertForMaskedLM" else "ModernBERT"
    sections = [
        HEADER.format(model_type=family.lower()),
        f"# {title}\n",
        _summary(info, family),
        _usage(info.context_tokens),
        _architecture(info),
        *(section for section in (training, evaluation, whole) if section),
    ]
    return redact("\n".join(sections))


def _read(file: Path, read: Callable[[Path], _T]) -> _T | None:
    """Return what `read` makes of a record of the run; None if there is none, or, with a warning, if it is damaged."""
    if not file.is_file():
        return None
    try:
        return read(file)
    except Exception as error:  # whatever may be wrong with a file that was changed by hand
        log.warning("%s is damaged, so the model card lacks what it says (%s)", file, one_line(error))
        return None


def _of_recipe(file: Path, info: CheckpointInfo) -> tuple[str, str, str]:
    """Return what recipe.yaml adds: the name of the run, and the sections about the training and the recipe."""
    recipe = _read_recipe(file)
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=110)
    whole = (
        "## Recipe\n\nThe recipe, as it was trained, without paths and addresses:\n\n"
        f"```yaml\n{text.strip()}\n```\n"
    )
    return str(recipe["name"]), _training(info, recipe), whole


def _scores_of(evaluation: Path, info: CheckpointInfo) -> dict[str, Any] | None:
    """Return what `modernbert evaluate` wrote, which has the unigram baseline; None if it is of other weights."""
    scores: dict[str, Any] = json.loads(evaluation.read_text(encoding="utf-8"))
    return scores if scores["sha256"] == info.sha256 else None


def latest_evaluation(metrics: Path, info: CheckpointInfo) -> dict[str, Any] | None:
    """Return the last scores in metrics.jsonl up to a checkpoint, with its objective; None if there are none."""
    if not metrics.is_file():
        return None
    evaluations = [
        line
        for line in read_metrics(metrics).evaluations
        if line["step"] <= info.step and line.get("objective", MaskedLM.name) == info.objective
    ]
    return evaluations[-1] if evaluations else None


def _summary(info: CheckpointInfo, family: str) -> str:
    is_masked = info.objective == MaskedLM.name
    objective = "by masked language modelling" if is_masked else f"with objective `{info.objective}`"
    return (
        f"A {family} encoder with {num_parameters(info.model):,} parameters, pretrained on {info.tokens:,} tokens, "
        f"last {objective}, with documents of up to {info.context_tokens:,} tokens.\n\n"
        + (
            f"Its weights are {_without_paths(info.merged)}.\n"
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
        'text = f"TEXT {tokenizer.mask_token} TEXT"  # in a language that it was trained on\n'
        'inputs = tokenizer(text, return_tensors="pt")\n'
        "logits = model(**inputs).logits\n```\n\n"
        f"It was trained on texts of up to {context_tokens:,} tokens, the tokenizer's `model_max_length`. "
        "For classification, retrieval and token labels it is meant to be fine-tuned.\n"
    )


def _architecture(info: CheckpointInfo) -> str:
    table = architecture_table(info.model, (info.global_rope_theta, info.local_rope_theta))
    return f"## Architecture\n\n{table.markdown()}\n"


def _training(info: CheckpointInfo, recipe: Any) -> str:
    phases = recipe["phases"]
    names = list(phases)
    done = names[: names.index(info.phase) + 1] if info.phase in names else names
    table = phases_table({name: phases[name] for name in done})
    sources = ", ".join(f"`{source}`" for source in recipe["data"]["sources"])
    start = recipe["init"]["from"]
    origin = f"\nThe weights started from `{start}`.\n" if start else ""
    return f"## Training\n\n{table.markdown()}\n{origin}\nSources of text: {sources}.\n"


def _evaluation(scores: dict[str, Any] | None, info: CheckpointInfo) -> str:
    if scores is None:
        return ""
    table = scores_table(scores["eval"])
    baseline = f"\n{UNIGRAM}\n" if SCORES["unigram_loss"] in table.columns else ""
    heading = (
        f"## Evaluation\n\nObjective `{info.objective}` on held-out text"
        f"{' with fixed masks' if OBJECTIVES[info.objective].reads_mask_rate else ''}, after step "
        f"{scores['step']:,}:\n\n"
    )
    return f"{heading}{table.markdown()}\n{baseline}"


def _read_recipe(file: Path) -> Any:
    """Return the content of recipe.yaml that may be published: sources by their names, and no path or address."""
    recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    for field in ("run_folder", "wandb"):
        recipe.pop(field, None)
    data = {key: value for key, value in recipe["data"].items() if key not in ("tokenizer", "cache")}
    if "skip" in data:
        data["skip"] = {key: value for key, value in data["skip"].items() if key != "documents_file"}
    init = recipe["init"] | {"from": _without_paths(recipe["init"]["from"])}
    return recipe | {"data": data | {"sources": list(data["sources"])}, "init": init}


def _without_paths(text: str | None) -> str | None:
    """Return a text with only the last part of every path, and without secrets: their URLs are recognized before."""
    return text and re.sub(r"[^\s,]*[/\\]([^\s,/\\])", r"\1", redact(text))
