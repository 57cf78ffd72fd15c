"""Small sweeps."""

import json
from pathlib import Path
from typing import Any

from modernbert_train.sweep.definition import Run
from tests.helpers.recipes import make_tiny
from tests.helpers.weights import make_info

# Two steps.
SHORT = [
    "phases.extension=null",
    "phases.pretrain.batch_ramp=null",
    "phases.pretrain.tokens=4K",
    "phases.pretrain.warmup_tokens=1K",
]


def write_sweep(folder: Path, text: str, name: str = "little.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def make_sweep(folder: Path, settings: str, seeds: str = "[1, 2]") -> Path:
    """Make a store, the tiny recipe and a sweep over it, whose runs have two steps."""
    make_tiny(folder)
    overrides = json.dumps(SHORT)
    text = f"base: tiny.yaml\nfolder: {folder}/runs\noverrides: {overrides}\nseeds: {seeds}\n{settings}\n"
    return write_sweep(folder, text)


def pretend_finished(run: Run, losses: dict[str, float], tokens: int = 4_096, **line: Any) -> None:
    """Write the files of a finished run that a report reads."""
    folder = Path(run.recipe.run_folder)
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints/step-00000002.pt").write_bytes(b"weights")
    (folder / "checkpoints/step-00000002.json").write_text(make_info(step=2).to_json())
    position = {"step": 2, "tokens": tokens, "phase": "pretrain"}
    step = {**position, "loss": 5.0, "lr": 1e-3, "tokens_per_s": 1_000.0, "fill": 0.9, **line}
    scores = {source: {"loss": loss, "accuracy": 1 / loss} for source, loss in losses.items()}
    lines = [json.dumps(step), json.dumps({**position, "eval": scores})]
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
