"""What a run, or a benchmark, has written to its folder."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from modernbert_train.checkpoints.run_files import (
    EVALUATION_FILE,
    METRICS_FILE,
    PROVENANCE_FILE,
    RECIPE_FILE,
    RunMetrics,
    is_scores,
    read_metrics,
    read_watch,
)
from modernbert_train.common.text import one_line
from modernbert_train.config import Recipe, dump_recipe, load_recipe
from modernbert_train.config.comparison import evaluation_settings, flatten
from modernbert_train.objectives import phase_title
from modernbert_train.reporting.charts import Band
from modernbert_train.reporting.series import objective_of
from modernbert_train.schedule import RunSchedule, build_schedule
from modernbert_train.store.tokenizer import tokenizer_fingerprint


@dataclass(frozen=True)
class RunRecord:
    """The records of a run. Those that are missing or damaged are empty, and `problems` says so."""

    # Unique in the report.
    name: str
    folder: Path
    metrics: RunMetrics
    # All fields of the recipe; only those of recipe.yaml if this version cannot load it.
    settings: Mapping[str, Any]
    recipe: Recipe | None
    schedule: RunSchedule | None
    # One for each start, oldest first.
    launches: Sequence[Mapping[str, Any]]
    # What `modernbert evaluate` wrote.
    evaluation: Mapping[str, Any]
    # Scores of checkpoints, of `--watch`.
    watch: Sequence[Mapping[str, Any]]
    # Fingerprint of the tokenizer.
    tokenizer: str | None
    problems: tuple[str, ...]

    @property
    def last(self) -> Mapping[str, Any]:
        """The last logged step."""
        return self.metrics.training[-1]

    @property
    def tokens(self) -> int:
        """Trained tokens, padding included."""
        return int(self.last["tokens"])

    @property
    def is_finished(self) -> bool:
        """Whether the run has done all steps of its recipe."""
        return self.schedule is not None and self.last["step"] >= self.schedule.total_steps

    @property
    def sources(self) -> list[str]:
        """The sources with held-out scores: in the order of the recipe, then others."""
        found = dict.fromkeys(source for line in self.metrics.evaluations for source in line["eval"])
        found |= dict.fromkeys(self.evaluation.get("eval", {}))
        data = self.settings.get("data")
        named = data.get("sources", {}) if isinstance(data, dict) else {}
        return [name for name in named if name in found] + [name for name in found if name not in named]

    @property
    def _latest(self) -> Mapping[str, Any]:
        """The latest held-out scores, of evaluation.json or metrics.jsonl; empty if there are none."""
        lines = self.metrics.evaluations
        is_newer = bool(lines) and (not self.evaluation or lines[-1]["step"] > self.evaluation["step"])
        return lines[-1] if is_newer else self.evaluation

    @property
    def scored_step(self) -> int:
        """The step that the latest held-out scores are of; 0 without any."""
        return int(self._latest.get("step", 0))

    @property
    def objective(self) -> str:
        """The objective of the latest held-out scores."""
        return objective_of(self._latest)

    @property
    def scores(self) -> dict[str, dict[str, Any]]:
        """The latest held-out scores of each source that has any.

        The unigram baseline is that of an older evaluation.json of the same objective: the targets are the same.
        """
        baselines = {
            name: self.unigram(self.objective, name) for name in ("unigram_loss", "unigram_accuracy")
        }
        return {
            source: {name: values[source] for name, values in baselines.items() if source in values} | score
            for source, score in self._latest.get("eval", {}).items()
            if score is not None and score.get("loss") is not None
        }

    @property
    def scored_context(self) -> tuple[int, int] | None:
        """Tokens of the longest documents and of the rows that the latest scores are of; None if they are unknown."""
        if self.recipe is None or self.schedule is None:
            return None
        step = min(self.scored_step, self.schedule.total_steps)
        phase, last = self.schedule.phase_of(max(0, step - 1)).config, list(self.recipe.phases.values())[-1]
        if self._latest is not self.evaluation:
            return phase.context_tokens, phase.row_tokens
        # `modernbert evaluate` reads rows of the last phase.
        return min(phase.context_tokens, last.context_tokens), last.row_tokens

    @property
    def task(self) -> dict[str, Any]:
        """What the latest held-out losses depend on, apart from the model and the text."""
        found: dict[str, Any] = {"tokenizer": self.tokenizer, "objective": self.objective}
        if self.recipe is not None:
            found["context_tokens and row_tokens"] = self.scored_context
            settings = evaluation_settings(self.recipe)
            found |= {
                key: settings[key] for key in ("evaluation.mask_rate", "evaluation.max_rows", "masking")
            }
        return found

    def unigram(self, objective: str, score: str = "unigram_loss") -> dict[str, float]:
        """Return source -> the unigram baseline under an objective, if `modernbert evaluate` has computed it."""
        if not self.evaluation or objective_of(self.evaluation) != objective:
            return {}
        scores = self.evaluation["eval"].items()
        return {
            source: values[score] for source, values in scores if values and values.get(score) is not None
        }

    def median(self, name: str) -> float | None:
        """Return the median of a metric over the logged steps; None if there is no value."""
        values = [line[name] for line in self.metrics.training if line.get(name) is not None]
        return statistics.median(values) if values else None

    def phases(self) -> list[tuple[Band, str]]:
        """Return the phases up to the last logged step, each with its objective."""
        ends: dict[tuple[str, str], float] = {}
        lines = [*self.metrics.training, *self.metrics.evaluations]
        for line in sorted(lines, key=lambda line: int(line["tokens"])):
            ends[str(line.get("phase")), objective_of(line)] = float(line["tokens"])
        starts = [0.0, *ends.values()]
        return [
            (Band(phase_title(name, objective), start, end), objective)
            for start, ((name, objective), end) in zip(starts, ends.items(), strict=False)
        ]

    def bands(self) -> tuple[Band, ...]:
        """Return the phases up to the last logged step."""
        return tuple(band for band, _ in self.phases())

    def planned_bands(self) -> tuple[Band, ...]:
        """Return all phases of the plan."""
        return tuple(
            Band(
                phase_title(phase.name, phase.objective.name),
                float(phase.first_tokens),
                float(phase.first_tokens + phase.num_tokens),
            )
            for phase in (() if self.schedule is None else self.schedule.phases)
        )


def read_run(folder: Path, name: str) -> RunRecord:
    """Read the records of a run.

    Args:
        folder: Of the run.
        name: For people.

    Returns:
        The records.

    Raises:
        ValueError: metrics.jsonl is missing or damaged, or has no training step yet.
    """
    metrics = read_metrics(folder / METRICS_FILE)
    if not metrics.training:
        raise ValueError(
            f"{folder / METRICS_FILE} has no training step yet; wait for the first one to be logged"
        )
    problems: list[str] = []
    settings = _read(folder / RECIPE_FILE, _settings, problems) or {}
    recipe = _read(folder / RECIPE_FILE, load_recipe, problems) if settings else None
    if recipe is not None:
        settings = yaml.safe_load(dump_recipe(recipe))
    provenance = _read(folder / PROVENANCE_FILE, _launches, problems)
    return RunRecord(
        name=name,
        folder=folder,
        metrics=metrics,
        settings=settings,
        recipe=recipe,
        schedule=None if recipe is None else build_schedule(recipe),
        launches=provenance or [],
        evaluation=_read(folder / EVALUATION_FILE, _evaluation, problems) or {},
        watch=read_watch(folder),
        tokenizer=_read(folder / "tokenizer.json", tokenizer_fingerprint, problems),
        problems=tuple(problems),
    )


def _read(file: Path, read: Any, problems: list[str]) -> Any:
    """Return what `read` makes of a file; None if there is none, or if it is damaged, which goes to the problems."""
    if not file.is_file():
        return None
    try:
        return read(file)
    except Exception as error:  # whatever may be wrong with a file that was changed by hand
        problems.append(
            f"{file.name} cannot be read, so this report lacks what it says ({one_line(error):.300})"
        )
        return None


def _settings(file: Path) -> dict[str, Any]:
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("it holds no settings")
    return content


def _launches(file: Path) -> list[dict[str, Any]]:
    launches = json.loads(file.read_text(encoding="utf-8"))["launches"]
    return [launch for launch in launches if isinstance(launch, dict)]


def _evaluation(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if type(content["step"]) is not int or not all(is_scores(score) for score in content["eval"].values()):
        raise ValueError("it holds no scores")
    return content


def settings_of(run: RunRecord) -> dict[str, Any]:
    """Return the settings of a run under their dotted keys, without the names of run and folder."""
    return {
        key: value for key, value in flatten(dict(run.settings)).items() if key not in ("name", "run_folder")
    }


def name_folders(folders: Sequence[Path]) -> list[str]:
    """Return names that tell folders apart: their last part, or as many as that needs."""
    parts = [folder.resolve().parts for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names
