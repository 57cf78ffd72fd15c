"""`modernbert probe`: what frozen states know of a task, in seconds for a checkpoint, beside the model's random twin.

The states of a text are the means over its tokens, after every layer. Classification: logistic regression; of a pair of
texts a and b, on |a - b| and a * b. Regression, of the similarity of two texts: the cosine of their states, centred by
the mean of the training texts; nothing is trained. The layer is chosen on training rows that the classifier does not
see.

Random weights give a bag of words, which already solves much of many tasks. Therefore each score stands beside that of
the twin, the same architecture with fresh weights, and only the difference says something about pretraining.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from modernbert_train.checkpoints.hf.config import CONFIG_FILE, MODEL_TYPES
from modernbert_train.checkpoints.hf.transformers_model import load_masked_lm
from modernbert_train.checkpoints.hf.weight_files import read_json
from modernbert_train.checkpoints.source import WeightSource, build_encoder, open_weights
from modernbert_train.common.files import write_atomically
from modernbert_train.common.randomness import permutation
from modernbert_train.common.text import format_table
from modernbert_train.common.types import Int32
from modernbert_train.data.plan import SPECIALS_PER_PIECE
from modernbert_train.evaluation.held_out import load_encoder, with_specials
from modernbert_train.evaluation.models import EvaluatedModel, find_device, open_model
from modernbert_train.evaluation.states import Pooler, our_pooler, pool_documents, transformers_pooler
from modernbert_train.evaluation.tables import numbers_of
from modernbert_train.evaluation.targets import Mean
from modernbert_train.evaluation.watch import Scores, WatchOptions, watch
from modernbert_train.model import ModernBertForMaskedLM, initialize_weights
from modernbert_train.store.tokenizer import tokenizer_errors
from modernbert_train.tasks.metrics import Array, compute_score
from modernbert_train.tasks.reading import TaskRows, read_task
from modernbert_train.tasks.schema import Task
from modernbert_train.tasks.suite import find_task

log = logging.getLogger(__name__)

# Rows to train and to score on, where a task does not say: enough for a curve, and seconds of work.
TRAIN_ROWS, VALID_ROWS = 3_000, 1_500
# Share of the training rows on which the layer is chosen.
_CHOICE_SHARE = 0.2
_TWIN_SEED = 0
# Of the suite glue, where the user names none.
DEFAULT_TASKS = ("sst2", "stsb")
_RESAMPLES = 500
# Of the squared weights in the loss of the classifier, times its number of rows.
_PENALTY = 5.0
_MOST_ITERATIONS = 200
_COLUMNS = (
    "twin: the same architecture with random weights, which gives a bag of words; only the difference says what "
    "pretraining has added; ±: standard error over rows"
)


@dataclass(frozen=True)
class ProbeScore:
    """What the states of a model know of a task."""

    model: str
    task: str
    metric: str
    num_train: int
    num_valid: int
    # Number of the layer, from 1; one more is after the final norm.
    layer: int
    twin_layer: int
    # With their standard errors over rows; the mean over the valid sets.
    score: Mean
    twin: Mean
    # Score minus that of the twin, on the same rows.
    difference: Mean
    # Of each layer on the valid rows.
    by_layer: tuple[float, ...]
    # For the model alone.
    seconds: float


class ProbedTask(NamedTuple):
    """A task and its rows."""

    task: Task
    rows: TaskRows


# Name of the rows to train on, or of a valid set -> for each text of a row, the ids of all rows.
_Ids = dict[str, list[list[Int32]]]
# No valid set has this name.
_TRAIN = "train rows"


class _Found(NamedTuple):
    """The predictions of one model for a task: valid set -> layer -> prediction of each row."""

    predictions: dict[str, list[Array]]
    # Number of the chosen layer, from 0.
    layer: int


def open_task(reference: str, overrides: Sequence[str] = ()) -> ProbedTask:
    """Read a task, and at most `TRAIN_ROWS` and `VALID_ROWS` of its rows unless it says how many.

    Args:
        reference: See `find_task`.
        overrides: Fields of the task, `key=value`.

    Returns:
        The task.

    Raises:
        ValueError: There is none, its rows cannot be read, or it is of a kind that states alone cannot answer.
    """
    task = find_task(reference, list(overrides))
    if task.kind not in ("classification", "regression"):
        raise ValueError(
            f"{reference} is of kind {task.kind}; probes are made for classification and regression; leave it out"
        )
    if task.kind == "regression" and len(task.text) != 2:
        raise ValueError(
            f"{reference}: its text is {', '.join(task.text)}; a probe of kind regression compares two texts, such as "
            "text: [sentence1, sentence2]"
        )
    task = dataclasses.replace(
        task, train_rows=task.train_rows or TRAIN_ROWS, valid_rows=task.valid_rows or VALID_ROWS
    )
    return ProbedTask(task, read_task(task))


class Prober:
    """Probes models on tasks; what the random twin of an architecture says is computed once.

    Args:
        tasks: To probe.
        device: See `find_device`.
        progress_bar: Whether to show one, where the output is a terminal.
    """

    def __init__(self, tasks: Sequence[ProbedTask], device: str = "auto", progress_bar: bool = True) -> None:
        self._tasks = tasks
        self._device = find_device(device)
        self._progress_bar = progress_bar
        # Architecture and tokenizer, and name of the task.
        self._twins: dict[tuple[str, str], _Found] = {}

    def __call__(self, model: EvaluatedModel) -> list[ProbeScore]:
        """Probe a model on all tasks."""
        pooler, build_twin, architecture = _poolers(model, self._device)
        scores = []
        for probed in self._tasks:
            start = time.perf_counter()
            ids = _tokenize(model, probed)
            found = self._find(pooler, probed, ids, model.name)
            seconds = time.perf_counter() - start
            key = (f"{architecture} {model.tokenizer.fingerprint}", probed.task.name)
            if key not in self._twins:
                self._twins[key] = self._find(build_twin(), probed, ids, "random twin")
            scores.append(_score(model, probed, found, self._twins[key], seconds))
        return scores

    def _find(self, pooler: Pooler, probed: ProbedTask, ids: _Ids, whose: str) -> _Found:
        task, rows = probed
        with tqdm(
            total=sum(len(documents) for of_set in ids.values() for documents in of_set),
            desc=f"{task.name}: {whose}",
            unit="text",
            leave=False,
            disable=None if self._progress_bar else True,
        ) as shown:
            states = {
                name: [_states(documents, pooler, shown) for documents in of_set]
                for name, of_set in ids.items()
            }
        train = states.pop(_TRAIN)
        if task.kind == "regression":
            return _by_cosine(task, rows, train, states)
        return _by_classifier(task, rows, train, states)


def _poolers(model: EvaluatedModel, device: torch.device) -> tuple[Pooler, Callable[[], Pooler], str]:
    """Return the states of a model, what builds those of its twin, and a text that is the same for equal twins."""
    source = model.source
    if source is None and read_json(model.folder / CONFIG_FILE).get("model_type") in MODEL_TYPES:
        source = open_weights(model.folder)
    if source is None:
        loaded, _ = load_masked_lm(model.folder)
        return (
            transformers_pooler(loaded, device),
            partial(_twin_of_transformers, loaded, device),
            str(loaded.config.to_json_string()),
        )
    backend = "auto" if device.type == "cuda" else "torch"
    info = source.info
    architecture = f"{info.model} {info.global_rope_theta} {info.local_rope_theta} {info.is_causal}"
    encoder = build_encoder(info, source.read(), backend)
    return our_pooler(encoder, device), partial(_twin, source, backend, device), architecture


def _twin(source: WeightSource, backend: str, device: torch.device) -> Pooler:
    fresh = ModernBertForMaskedLM(source.model, attention_backend="torch")
    initialize_weights(fresh, source.model, torch.Generator().manual_seed(_TWIN_SEED))
    return our_pooler(build_encoder(source.info, fresh.state_dict(), backend), device)


def _twin_of_transformers(model: Any, device: torch.device) -> Pooler:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_TWIN_SEED)
        return transformers_pooler(type(model)(model.config), device)


def _tokenize(model: EvaluatedModel, probed: ProbedTask) -> _Ids:
    """Return the ids of each text, with [CLS] and [SEP], cut at what task and model allow."""
    task, rows = probed
    most_tokens = min(task.max_tokens, model.most_tokens or task.max_tokens)
    encoder = load_encoder(model.tokenizer)
    are_cut: list[bool] = []

    def encode(text: str) -> Int32:
        with tokenizer_errors(f"{task.name}: a text cannot be tokenized by {model.name}"):
            ids = encoder.encode(text, add_special_tokens=False).ids
        are_cut.append(len(ids) > most_tokens - SPECIALS_PER_PIECE)
        content = np.array(ids[: most_tokens - SPECIALS_PER_PIECE], dtype=np.int32)
        return with_specials(content, model.tokenizer)

    found = {
        name: [list(map(encode, column)) for column in zip(*of_set.texts, strict=True)]
        for name, of_set in {_TRAIN: rows.train, **rows.valid}.items()
    }
    if any(are_cut):
        share = sum(are_cut) / len(are_cut)
        log.warning(
            "%s: %.1f%% of the texts are cut at %s tokens", task.name, 100 * share, f"{most_tokens:,}"
        )
    return found


def _states(documents: Sequence[Int32], pooler: Pooler, shown: tqdm) -> Tensor:
    """Return the states of each document: float32 [layers, documents, hidden]."""
    parts: list[Tensor] = []
    order: list[int] = []
    for numbers, states in pool_documents(documents, pooler):
        parts.append(states)
        order += numbers
        shown.update(len(numbers))
    return torch.cat(parts, dim=1)[:, torch.tensor(order).argsort()]


def _by_cosine(task: Task, rows: TaskRows, train: list[Tensor], valid: dict[str, list[Tensor]]) -> _Found:
    centre = torch.cat(train, dim=1).mean(dim=1, keepdim=True)

    def similarities(texts: list[Tensor]) -> list[Array]:
        first, second = (states - centre for states in texts)
        return list(F.cosine_similarity(first, second, dim=-1).double().numpy())

    labels = np.array(rows.train.labels)
    chosen = [compute_score(task.metric, of_layer, labels) for of_layer in similarities(train)]
    return _Found({name: similarities(texts) for name, texts in valid.items()}, int(np.argmax(chosen)))


def _by_classifier(task: Task, rows: TaskRows, train: list[Tensor], valid: dict[str, list[Tensor]]) -> _Found:
    labels = torch.tensor(rows.train.labels)
    order = permutation(len(labels), "probe", task.name)
    num_choosing = max(1, round(_CHOICE_SHARE * len(labels)))
    choosing, fitting = (torch.from_numpy(part) for part in np.split(order, [num_choosing]))
    chosen: list[float] = []
    predictions: dict[str, list[Array]] = {name: [] for name in valid}
    for layer in range(len(train[0])):
        features = _features([states[layer] for states in train])
        classify = _fit(features[fitting], labels[fitting], len(task.labels))
        guesses = classify(features[choosing])
        chosen.append(compute_score(task.metric, guesses, labels[choosing].numpy(), task.labels))
        classify = _fit(features, labels, len(task.labels))
        for name, texts in valid.items():
            predictions[name].append(classify(_features([states[layer] for states in texts])))
    return _Found(predictions, int(np.argmax(chosen)))


def _features(texts: list[Tensor]) -> Tensor:
    """Return the features of rows with one text, or a pair of texts, from states [rows, hidden] of each."""
    if len(texts) == 1:
        return texts[0]
    first, second = texts
    return torch.cat([(first - second).abs(), first * second], dim=1)


def _fit(features: Tensor, labels: Tensor, num_classes: int) -> Callable[[Tensor], Array]:
    """Fit a logistic regression with an L2 penalty on standardized features.

    Args:
        features: [rows, features].
        labels: The number of the class of each row.
        num_classes: Number of classes.

    Returns:
        Features -> the most likely class of each row.
    """
    mean, std = features.mean(dim=0), features.std(dim=0, correction=0)
    std = torch.where(std > 0, std, 1.0)
    inputs = (features - mean) / std
    weight = torch.zeros(num_classes, inputs.shape[1], requires_grad=True)
    bias = torch.zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=_MOST_ITERATIONS, tolerance_grad=1e-5, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(inputs @ weight.T + bias, labels)
        loss = loss + _PENALTY / len(labels) * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)

    def classify(others: Tensor) -> Array:
        with torch.no_grad():
            return ((others - mean) / std @ weight.T + bias).argmax(dim=1).numpy()

    return classify


def _score(
    model: EvaluatedModel, probed: ProbedTask, found: _Found, twin: _Found, seconds: float
) -> ProbeScore:
    task, rows = probed
    labels = {name: np.array(of_set.labels) for name, of_set in rows.valid.items()}

    def score(predictions: dict[str, Array], chosen: dict[str, Array]) -> float:
        return float(
            np.mean(
                [
                    compute_score(task.metric, predictions[name][at], labels[name][at], task.labels)
                    for name, at in chosen.items()
                ]
            )
        )

    ours = {name: of_set[found.layer] for name, of_set in found.predictions.items()}
    theirs = {name: of_set[twin.layer] for name, of_set in twin.predictions.items()}
    everything = {name: np.arange(len(of_set)) for name, of_set in labels.items()}
    random = np.random.default_rng(0)
    # Rows drawn with replacement, the same for both models.
    drawn = []
    for _ in range(_RESAMPLES):
        chosen = {name: random.integers(len(at), size=len(at)) for name, at in everything.items()}
        drawn.append((score(ours, chosen), score(theirs, chosen)))
    of_ours, of_twin = np.array(drawn).T
    value, twin_value = score(ours, everything), score(theirs, everything)
    num_layers = len(next(iter(found.predictions.values())))
    return ProbeScore(
        model=model.name,
        task=task.name,
        metric=task.metric,
        num_train=len(rows.train),
        num_valid=sum(map(len, labels.values())),
        layer=found.layer + 1,
        twin_layer=twin.layer + 1,
        score=Mean(value, float(of_ours.std())),
        twin=Mean(twin_value, float(of_twin.std())),
        difference=Mean(value - twin_value, float((of_ours - of_twin).std())),
        by_layer=tuple(
            score({name: of_set[layer] for name, of_set in found.predictions.items()}, everything)
            for layer in range(num_layers)
        ),
        seconds=seconds,
    )


def probe(
    targets: Sequence[str | Path],
    references: Sequence[str],
    overrides: Sequence[str] = (),
    *,
    device: str = "auto",
    json_file: str | None = None,
) -> str:
    """Probe models on tasks.

    Args:
        targets: Run folders, checkpoints or Hugging Face folders.
        references: Tasks, see `find_task`.
        overrides: Fields of the tasks, `key=value`.
        device: See `find_device`.
        json_file: File for the numbers.

    Returns:
        A text table.
    """
    models = [open_model(target) for target in targets]
    prober = Prober([open_task(reference, overrides) for reference in references], device)
    scores = [score for model in models for score in prober(model)]
    if json_file is not None:
        write_atomically(
            Path(json_file), json.dumps([dataclasses.asdict(s) for s in scores], indent=1) + "\n"
        )
    return format_probes(scores)


def watch_probe(
    watched: WatchOptions, references: Sequence[str], overrides: Sequence[str] = (), *, device: str = "auto"
) -> Iterator[str]:
    """Probe each new checkpoint of a run, see `watch`; arguments as for `probe`.

    Yields:
        A line for people about each checkpoint.
    """
    prober = Prober([open_task(reference, overrides) for reference in references], device)

    def score(checkpoint: Path) -> Scores:
        found = prober(open_model(checkpoint))
        return {
            score.task: {
                **numbers_of("score", score.score),
                **numbers_of("twin", score.twin),
                **numbers_of("difference", score.difference),
                "layer": score.layer,
            }
            for score in found
        }

    yield from watch(watched, "probe", score, _describe)


def _describe(scores: Scores) -> str:
    return ", ".join(
        f"{task} {100 * (found['score'] or 0):.1f} (twin {100 * (found['twin'] or 0):.1f})"
        for task, found in scores.items()
    )


def format_probes(scores: Sequence[ProbeScore]) -> str:
    """Return the scores as a text table, the models of each task together."""
    columns = ("task", "model", "metric", "layer", "score", "twin", "difference", "rows", "seconds")
    tasks = list(dict.fromkeys(score.task for score in scores))
    rows = [
        (
            s.task, s.model, s.metric, f"{s.layer} of {len(s.by_layer)}", _hundredths(s.score), _hundredths(s.twin),
            _hundredths(s.difference, "+"), f"{s.num_train:,} + {s.num_valid:,}", f"{s.seconds:.0f}",
        )
        for s in sorted(scores, key=lambda score: tasks.index(score.task))
    ]  # fmt: skip
    return f"{format_table(columns, rows)}\n\n{_COLUMNS}"


def _hundredths(mean: Mean, sign: str = "") -> str:
    return f"{100 * mean.value:{sign}.1f} ± {100 * mean.error:.1f}"
