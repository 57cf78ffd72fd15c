"""Every shipped recipe: its dry run, and training of a tiny version through all of its phases."""

import ast
import dataclasses
import math
import re
from itertools import groupby
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch

from modernbert_train.checkpoints.info import read_info
from modernbert_train.checkpoints.run_files import list_checkpoints
from modernbert_train.cli import main
from modernbert_train.config import Recipe, load_recipe
from modernbert_train.schedule import build_schedule
from modernbert_train.store.manifest import TokenizerInfo
from tests.helpers.launching import read_steps
from tests.helpers.published import PUBLISHED
from tests.helpers.recipes import shipped_recipes, skewed_documents
from tests.helpers.stores import make_store, make_tokenizer

ROOT = Path(__file__).parents[2]
RECIPES = shipped_recipes()
each_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)

ROW, STREAMS, BATCH, PHASE = 256, 2, 1_024, 4_096  # in tokens, except STREAMS
TINY_MODEL = {
    "vocab_size": 256,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "local_attention": 16,
    "max_position_embeddings": ROW,
}


def tiny_overrides(
    recipe: Recipe, tokenizer: TokenizerInfo, folder: Path, phase_tokens: int = PHASE
) -> list[str]:
    """Return overrides that make any recipe tiny: smaller sizes, the same phases with the same components."""
    overrides = [f"model.{name}={value}" for name, value in TINY_MODEL.items()]
    overrides += [
        f"data.tokenizer={tokenizer.path}",
        f"data.num_streams={STREAMS}",
        "data.num_canonical_nodes=2",
    ]
    overrides += ["data.shuffle_rows=16", "data.num_workers=0", f"run_folder={folder}/run"]
    overrides += ["training.device=cpu", "training.compile=false", "training.log_every_steps=1"]
    overrides += ["evaluation.max_rows=2", "wandb.project=null", "init.from=null"]
    overrides += [f"data.sources.{source}.store={folder}/store" for source in recipe.data.sources]
    if recipe.training.save_every_tokens:
        overrides.append(f"training.save_every_tokens={phase_tokens // 2}")
    if recipe.evaluation.every_tokens:
        overrides.append(f"evaluation.every_tokens={phase_tokens // 2}")
    longest = max(phase.context_tokens for phase in recipe.phases.values())
    for name, phase in recipe.phases.items():
        sizes = {
            "tokens": phase_tokens,
            "context_tokens": phase.context_tokens * ROW // longest,
            "row_tokens": ROW,
            "batch_tokens": BATCH,
            "micro_batch_tokens": BATCH,
            "warmup_tokens": phase_tokens // 4 if phase.warmup_tokens else 0,
            "decay_tokens": phase_tokens // 2 if phase.decay_tokens else 0,
        }
        if phase.batch_ramp is not None:
            sizes |= {"batch_ramp.start_tokens": BATCH // 2, "batch_ramp.tokens": phase_tokens // 2}
        overrides += [f"phases.{name}.{field}={value}" for field, value in sizes.items()]
    return overrides


def make_sources(recipe: Recipe, tokenizer: TokenizerInfo, folder: Path) -> None:
    """Write a store with all sources of the recipe, under the names it uses."""
    names = [source.source or key for key, source in recipe.data.sources.items()]
    splits = {
        name: {"train": skewed_documents(200, seed), "valid": skewed_documents(10, 100 + seed)}
        for seed, name in enumerate(names)
    }
    make_store(folder / "store", tokenizer, splits)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def dry_run(path: Path, capsys, *options: str) -> tuple[str, dict[str, list[str]]]:
    """Return the printed text, and its table as label -> one text per phase."""
    assert main(["train", str(path), "--dry-run", *options]) == 2  # its stores are not on this machine
    problems, text = capsys.readouterr().out.split("\n\n", 1)
    assert problems.startswith("not ready to train:\n  - ")
    table = text[text.index("\nphase  ") :].split("\n\n")[0]
    return text, {line[:20].strip(): line[20:].split() for line in table.splitlines()}


def number(text: str) -> float:
    return float(text.replace(",", "").replace("<", ""))


@each_recipe
def test_dry_run_agrees_with_what_is_published(path, capsys):
    recipe = load_recipe(path)
    text, table = dry_run(path, capsys)
    assert text.startswith(f"{recipe.name}: ")
    assert table["phase"] == list(recipe.phases)
    (total,) = re.findall(r"^hours +([\d,.<]+) GPU-hours", text, re.MULTILINE)
    rounding = 0.1 * len(recipe.phases)
    assert sum(map(number, table["GPU-hours"])) == pytest.approx(number(total), abs=rounding)
    published = PUBLISHED[recipe.name]  # add the figures of a new recipe there
    if published is None:
        return
    (parameters,) = re.findall(r"([\d,]+) parameters", text)
    assert int(number(parameters) / 1e6) == published.parameters_millions
    assert dict(zip(table["phase"], table["tokens"], strict=True)) == published.tokens
    steps = dict(zip(table["phase"], map(number, table["steps"]), strict=True))
    assert {phase: steps[phase] for phase in published.steps} == pytest.approx(published.steps, rel=3e-4)
    for timing in published.timings:
        _, table = dry_run(path, capsys, "--tokens-per-second", str(timing.tokens_per_s))
        hours = dict(zip(table["phase"], map(number, table["GPU-hours"]), strict=True))
        assert sum(hours[phase] for phase in timing.phases) == pytest.approx(timing.gpu_hours, rel=1e-3)


def test_one_gpu_one_day_takes_a_day(capsys):
    (path,) = [path for path in RECIPES if path.stem == "one-gpu-one-day"]
    _, table = dry_run(path, capsys, "--tokens-per-second", "307_350")  # ModernBERT-base on an H100
    assert 23 < sum(map(number, table["GPU-hours"])) < 24


@each_recipe
def test_a_few_steps_of_every_phase(path, tmp_path, tokenizer):
    recipe = load_recipe(path)
    make_sources(recipe, tokenizer, tmp_path)
    assert main(["train", str(path), *tiny_overrides(recipe, tokenizer, tmp_path)]) == 0
    steps = read_steps(tmp_path / "run")
    assert [phase for phase, _ in groupby(steps, key=lambda step: step["phase"])] == list(recipe.phases)
    assert all(math.isfinite(step["loss"]) for step in steps)
    for name, phase in recipe.phases.items():
        phase_steps = [step for step in steps if step["phase"] == name]
        assert len(phase_steps) >= 4
        assert {step["global_rope_theta"] for step in phase_steps} == {phase.global_rope_theta}
        assert {step["mask_rate"] for step in phase_steps} == {
            phase.mask_rate if phase.objective == "mlm" else None
        }
        assert len({step["batch_tokens"] for step in phase_steps}) == (2 if phase.batch_ramp else 1)
        assert max(step["lr"] for step in phase_steps) == pytest.approx(phase.learning_rate)
        assert (phase_steps[-1]["lr"] < phase_steps[0]["lr"]) == bool(
            phase.decay_tokens and not phase.warmup_tokens
        )
    ends = [path for path in list_checkpoints(tmp_path / "run") if read_info(path).keep]
    assert [read_info(path).phase for path in ends] == list(recipe.phases)
    for path, phase in zip(ends, build_schedule(recipe).phases, strict=True):
        (optimizer,) = torch.load(path, weights_only=False)["state"]["optimizers"].values()
        assert {group["weight_decay"] for group in optimizer["param_groups"]} == {phase.weight_decay, 0.0}
        assert read_info(path).local_rope_theta == phase.config.local_rope_theta


def test_every_field_is_read():
    """A field that no code outside `config/` (or in `config/cache.py`, which opens the cache) reads would be dead."""
    read = set()
    for path in (ROOT / "modernbert_train").rglob("*.py"):
        if "config" not in path.relative_to(ROOT).parts or path.name == "cache.py":
            tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            read |= {node.attr for node in tree if isinstance(node, ast.Attribute)}
    assert field_names(Recipe) - read == set()


def field_names(section: type) -> set[str]:
    """Return the names of all fields of a dataclass and of the dataclasses within it."""
    names = set()
    for name, hint in get_type_hints(section).items():
        names.add(name)
        for inner in (hint, *get_args(hint)):
            if dataclasses.is_dataclass(inner):
                assert isinstance(inner, type)
                names |= field_names(inner)
    return names
