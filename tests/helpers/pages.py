"""Records of runs that a report reads, without training; and a reader of its HTML."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

# Elements of HTML without an end tag.
VOID = ("meta", "br", "hr", "img", "link", "input")

RECIPE = """
name: {name}
data: {{tokenizer: tokenizer, num_streams: 1, sources: {{{sources}}}}}
phases:
  pretrain:
    mixture: {{{mixture}}}
    tokens: 60K
    batch_tokens: 1024
    row_tokens: 1024
    context_tokens: 256
    learning_rate: 1e-3
    warmup_tokens: 10K
  extend: {{tokens: 30K, context_tokens: 1024, decay_tokens: 30K}}
model: {{vocab_size: 256, hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 96}}
seed: {seed}
"""


def step_line(step: int, phase: str = "pretrain", **changes: Any) -> dict[str, Any]:
    line = {
        "step": step,
        "tokens": step * 1_024,
        "phase": phase,
        "loss": 8 / step,
        "lr": 1e-3,
        "batch_tokens": 1_024,
        "context_tokens": 256 if phase == "pretrain" else 1_024,
        "mask_rate": 0.3,
        "grad_norm": 1.0 + 1 / step,
        "fill": 1.0,
        "tokens_per_s": 5_000.0,
        "data_wait_share": 0.01,
        "source_tokens": {"prose": step * 600, "code": step * 300},
    }
    return line | changes


def eval_line(
    step: int, phase: str = "pretrain", sources: tuple[str, ...] = ("prose", "code"), **changes: Any
) -> dict[str, Any]:
    scores = {
        source: {"loss": (7 - place) / step, "accuracy": (1 + place) / 10}
        for place, source in enumerate(sources)
    }
    return {"step": step, "tokens": step * 1_024, "phase": phase, "eval": scores, **changes}


def write_metrics(run: Path, lines: list[dict[str, Any]]) -> Path:
    run.mkdir(exist_ok=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def write_run(
    run: Path,
    sources: tuple[str, ...] = ("prose", "code"),
    seed: int = 17,
    tokenizer: str = "{}",
    steps: int = 89,
    recipe: str = RECIPE,
    **line: Any,
) -> Path:
    """Write the folder of a run whose two phases have 59 and 30 steps: recipe, metrics, scores, provenance."""
    lines = [
        step_line(
            step,
            "pretrain" if step < 60 else "extend",
            source_tokens=dict.fromkeys(sources, 300 * step),
            **line,
        )
        for step in range(1, steps + 1)
    ]
    lines += [
        eval_line(step, "pretrain" if step < 60 else "extend", sources)
        for step in (30, 59, 89)
        if step <= steps
    ]
    write_metrics(run, lines)
    text = recipe.format(
        name=run.name,
        seed=seed,
        sources=", ".join(f"{source}: {{store: store}}" for source in sources),
        mixture=", ".join(f"{source}: 1" for source in sources),
    )
    (run / "recipe.yaml").write_text(text)
    (run / "tokenizer.json").write_text(tokenizer)
    scores = {
        source: values | {"unigram_loss": 5.5, "unigram_accuracy": 0.05}
        for source, values in eval_line(89, sources=sources)["eval"].items()
    }
    (run / "evaluation.json").write_text(
        json.dumps({"step": 89, "objective": "mlm", "sha256": "0", "eval": scores})
    )
    launch = {
        "time": "2026-01-01T00:00:00Z",
        "command": ["modernbert", "train"],
        "git_commit": "c0ffee",
        "python": "3.11.7",
        "packages": {"torch": "2.14.1"},
        "host": "node-1",
        "device": "cpu",
        "world_size": 1,
    }
    (run / "provenance.json").write_text(
        json.dumps({"run": "0", "launches": [launch, launch | {"host": "node-2", "world_size": 2}]})
    )
    return run


class Parsed(HTMLParser):
    """The tables, texts and addresses of a page, whose elements must all be closed."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        # Of each table: its title, and its rows of cells.
        self.tables: list[tuple[str, list[list[str]]]] = []
        self.tags: list[str] = []
        # What the browser would have to load.
        self.addresses: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(page)
        self.close()
        assert self.tags == [], "elements that are not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.attributes.append((tag, attributes))
        self.addresses += [
            value or ""
            for name, value in attrs
            if name in ("src", "href", "srcset", "data", "action", "xlink:href")
        ]
        if tag in VOID:
            return
        self.tags.append(tag)
        if tag == "table":
            self.tables.append(("", []))
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.tags.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.tags:
            return
        self.texts.setdefault(self.tags[-1], []).append(data)
        if self.tags[-1] in ("th", "td"):
            self.tables[-1][1][-1][-1] += data
        elif self.tags[-1] == "caption":
            self.tables[-1] = (data, self.tables[-1][1])
