"""Fine-tuning with the trainers of sentence-transformers, with the optimizer and schedule that all tasks have.

Contrastive: the document of a query is to score higher than all others of the batch, its hard negatives among them
(InfoNCE; `MultipleNegativesRankingLoss`). No text is in a batch twice. A batch that does not fit into
`micro_batch_tokens` is computed in parts, with the same gradient (GradCache, Gao et al., 2021).

Pairs of texts with a similarity: CoSENT, which asks for the right order of all pairs of a batch, or the squared
distance of the cosine to the similarity.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import torch

from modernbert_train.tasks.device import device_of
from modernbert_train.tasks.schema import RetrievalConfig, Task

# Scales of the scores in the softmax: of a cosine, and of MaxSim, a sum over the tokens of the query. Those of
# sentence-transformers.
COSINE_SCALE, MAXSIM_SCALE = 20.0, 1.0
_LOG_LINES = 20


def num_steps(task: Task, retrieval: RetrievalConfig, num_rows: int) -> int:
    """Return the steps of a job: `retrieval.steps`, or those of `epochs` passes over the rows."""
    if retrieval.steps is not None:
        return retrieval.steps
    return max(1, math.ceil(task.epochs * num_rows / task.batch_size))


def train_contrastive(
    model: Any,
    sources: Mapping[str, Sequence[Sequence[str]]],
    task: Task,
    retrieval: RetrievalConfig,
    steps: int,
    seed: int,
) -> list[float]:
    """Train a model on rows of query, document and hard negatives.

    Args:
        model: Of `load_model`; it is changed.
        sources: Name -> rows. A batch is of one source, which is drawn in proportion to its rows.
        task: Settings of the optimizer.
        retrieval: Settings of the loss.
        steps: Steps of the optimizer.
        seed: Order of the rows, and dropout.

    Returns:
        Mean losses of about twenty equal parts of the run.

    Raises:
        FloatingPointError: The loss is not finite.
    """
    from datasets import Dataset, DatasetDict

    tables = {name: Dataset.from_dict(_columns(rows)) for name, rows in sources.items()}
    data = next(iter(tables.values())) if len(tables) == 1 else DatasetDict(tables)
    kinds = {
        column: "query" if column == "query" else "document"
        for table in tables.values()
        for column in table.column_names
    }
    num_documents = max(len(table.column_names) for table in tables.values()) - 1
    most_tokens = task.batch_size * (model[0].query_length + num_documents * model[0].document_length)
    loss = _ranking_loss(model, task, retrieval, in_parts=most_tokens > task.micro_batch_tokens)
    options = {"batch_sampler": "no_duplicates", "router_mapping": kinds}
    return _train(model, data, loss, task, retrieval, steps, seed, options)


def _columns(rows: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    names = ["query", "document", *(f"negative_{number}" for number in range(1, len(rows[0]) - 1))]
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def train_similarity(
    model: Any,
    rows: Sequence[tuple[str, str, float]],
    task: Task,
    retrieval: RetrievalConfig,
    steps: int,
    seed: int,
) -> list[float]:
    """Train a single-vector model on pairs of texts and their similarity, from 0 to 1.

    Returns:
        Mean losses of about twenty equal parts of the run.
    """
    from datasets import Dataset
    from sentence_transformers.sentence_transformer.losses import CoSENTLoss, CosineSimilarityLoss

    columns = {"sentence1": 0, "sentence2": 1, "score": 2}
    data = Dataset.from_dict({name: [row[place] for row in rows] for name, place in columns.items()})
    kind = CoSENTLoss if retrieval.pair_loss == "cosent" else CosineSimilarityLoss
    options = {"router_mapping": {"sentence1": "document", "sentence2": "document"}}
    return _train(model, data, kind(model), task, retrieval, steps, seed, options)


def _ranking_loss(model: Any, task: Task, retrieval: RetrievalConfig, in_parts: bool) -> Any:
    from sentence_transformers.multi_vector_encoder import losses as multi_vector
    from sentence_transformers.sentence_transformer import losses as single_vector

    losses: ModuleType = single_vector
    name, scale = "MultipleNegativesRankingLoss", COSINE_SCALE
    if retrieval.multi_vector:
        losses, name, scale = multi_vector, f"MultiVector{name}", MAXSIM_SCALE
    if retrieval.scale is not None:
        scale = retrieval.scale
    if in_parts:
        return getattr(losses, f"Cached{name}")(
            model, scale=scale, mini_batch_num_tokens=task.micro_batch_tokens
        )
    return getattr(losses, name)(model, scale=scale)


def _train(
    model: Any,
    data: Any,
    loss: Any,
    task: Task,
    retrieval: RetrievalConfig,
    steps: int,
    seed: int,
    options: Mapping[str, object],
) -> list[float]:
    import sentence_transformers
    from transformers import PrinterCallback

    name = "MultiVectorEncoder" if retrieval.multi_vector else "SentenceTransformer"
    trainer_type = _without_model_card(getattr(sentence_transformers, f"{name}Trainer"))
    arguments_type = getattr(sentence_transformers, f"{name}TrainingArguments")
    on_gpu = torch.device(model.device).type == "cuda"
    with tempfile.TemporaryDirectory(prefix="modernbert-") as folder:
        arguments = arguments_type(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=task.batch_size,
            learning_rate=task.learning_rate,
            # Ours is the share of a weight that a step at the peak removes; torch's is multiplied by the rate.
            weight_decay=task.weight_decay / task.learning_rate,
            adam_beta1=task.betas[0],
            adam_beta2=task.betas[1],
            adam_epsilon=task.eps,
            max_grad_norm=task.gradient_clip_norm or 0.0,
            lr_scheduler_type="linear" if task.schedule == "linear" else "constant_with_warmup",
            warmup_steps=round(task.warmup * steps),
            seed=seed,
            data_seed=seed,
            bf16=device_of(task)[1],
            use_cpu=not on_gpu,
            report_to=[],
            save_strategy="no",
            logging_strategy="steps",
            logging_nan_inf_filter=False,
            logging_steps=max(1, steps // _LOG_LINES),
            disable_tqdm=not sys.stderr.isatty(),
            **options,
        )
        # Otherwise several visible GPUs would multiply the batch.
        _ = arguments.n_gpu
        arguments._n_gpu = min(1, arguments.n_gpu)
        trainer = trainer_type(model=model, args=arguments, train_dataset=data, loss=loss)
        trainer.remove_callback(PrinterCallback)  # prints a dict for each part of the run
        trainer.train()
    losses = [float(line["loss"]) for line in trainer.state.log_history if "loss" in line]
    if not all(map(math.isfinite, losses)):
        raise FloatingPointError(
            f"{task.name}: the loss is NaN or infinite within {steps:,} steps; lower learning_rate, or check the model"
        )
    return losses


def _without_model_card(trainer_type: Any) -> Any:
    """Return a trainer that does not compute statistics of its data, which only its model card would show."""

    class Trainer(trainer_type):
        def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
            pass

    return Trainer
