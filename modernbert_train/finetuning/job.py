"""One job: fine-tune a model on a task with one seed. A plain Hugging Face folder comes out, with a record beside it.

config.json  model.safetensors  tokenizer.json  tokenizer_config.json  result.json  predictions.npz
"""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path

import torch

from modernbert_train.checkpoints.hf.config import CONFIG_FILE
from modernbert_train.checkpoints.hf.folder import context_tokens, transformer_folder
from modernbert_train.checkpoints.hf.modernbert import MODEL_TYPE
from modernbert_train.checkpoints.hf.weight_files import read_json
from modernbert_train.checkpoints.hf_folders import as_hf_folder
from modernbert_train.checkpoints.hub import find_model
from modernbert_train.common.files import check_new_folder, new_folder
from modernbert_train.finetuning.engine import Engine
from modernbert_train.finetuning.examples import TOKENIZER_FILES, Example, encode, load_tokenizer
from modernbert_train.finetuning.loop import train
from modernbert_train.finetuning.packed import PackedEngine
from modernbert_train.finetuning.padded import PaddedEngine
from modernbert_train.tasks.device import device_of
from modernbert_train.tasks.leaks import leaks_of_task
from modernbert_train.tasks.reading import read_task
from modernbert_train.tasks.results import RESULT_FILE, JobResult, read_result, settings_of, write_result
from modernbert_train.tasks.schema import Task

log = logging.getLogger(__name__)


def finetune(model: str, task: Task, out: str | Path) -> JobResult:
    """Fine-tune a model on a task.

    Args:
        model: A run folder, a checkpoint, a Hugging Face folder or a model of the hub. The classifier of one that was
            fine-tuned before is replaced, everything else is kept.
        task: The task and its settings; `seed` or the first of `seeds` is used.
        out: A folder that is empty or does not exist.

    Returns:
        The record that is also in `out`.

    Raises:
        ValueError: The task is of kind retrieval, or rows, model, device or `out` are wrong.
        FloatingPointError: A loss or an output is NaN or infinite.
    """
    if task.kind == "retrieval":
        raise ValueError(f"{task.name} is of kind retrieval: use `modernbert retrieve`")
    out = Path(out)
    check_new_folder(out)
    start = time.monotonic()
    device, bf16 = device_of(task)
    seed = task.job_seed
    path = find_model(model)
    before = _task_before(path)
    if task.start_from is not None and before != task.start_from:
        log.warning(
            "%s starts from the model that was fine-tuned on %s, in this suite; %s is not: name that model's folder",
            task.name, task.start_from, model,
        )  # fmt: skip
    with new_folder(out) as folder, as_hf_folder(path, beside=out.parent) as found:
        source = transformer_folder(found)
        tokenizer = load_tokenizer(source)
        max_tokens = _max_tokens(source, task)
        rows = read_task(task)
        for name, leaks in leaks_of_task(task, rows).items():
            log.info("%s %s: %s", task.name, name, leaks.text)
        examples = {
            name: encode(part, task.kind, tokenizer, max_tokens, f"{task.name} {name}")
            for name, part in {"train": rows.train, **rows.valid}.items()
        }
        cut = {name: _share_cut(part) for name, part in examples.items()}
        _tell(task, examples, cut, max_tokens)
        engine = _engine(source, task, seed, device, bf16)
        outcome = train(
            engine, examples["train"], {name: examples[name] for name in rows.valid}, task, seed, bf16
        )
        engine.save(folder)
        _copy_tokenizer(source, folder)
        result = JobResult(
            task=task.name,
            kind=task.kind,
            model=model,
            seed=seed,
            metric=task.metric,
            scores=outcome.kept.scores,
            kept=task.keep,
            step=outcome.kept.step,
            settings=settings_of(task),
            protocol=task.protocol,
            num_rows={name: len(part) for name, part in examples.items()},
            cut_share=cut,
            seconds=round(time.monotonic() - start, 3),
            started_from=before,
            random_twin=task.random_twin,
            details={
                "engine": engine.name,
                "device": device.type,
                "precision": "bf16" if bf16 else "fp32",
                "max_tokens": max_tokens,
                "stopped_early": outcome.stopped_early,
                "evaluations": [
                    {"step": e.step, "train_loss": e.train_loss, "scores": e.scores}
                    for e in outcome.evaluations
                ],
            },
        )
        write_result(folder, result, outcome.kept.predictions)
    return result


def summary(result: JobResult, out: str | Path) -> str:
    """Return the scores of a job as text: a line for each valid set."""
    lines = []
    for name in result.scores[result.metric]:
        scores = [
            f"{score.replace('_', ' ')} {100 * sets[name]:.2f}" for score, sets in result.scores.items()
        ]
        lines.append(f"{result.task} {name}: {', '.join(scores)}")
    which = f"{result.kept} evaluation, step {result.step:,}; seed {result.seed}; {result.seconds:,.0f} s"
    return "\n".join([*lines, f"({which})", f"fine-tuned: {out}"])


def _task_before(path: Path) -> str | None:
    """Return the name of the task that a model was fine-tuned on; None if it was on none."""
    return read_result(path).task if (path / RESULT_FILE).is_file() else None


def _max_tokens(folder: Path, task: Task) -> int:
    context = context_tokens(folder)
    if context < task.max_tokens:
        log.info(
            "%s: texts are cut to %s tokens, the longest input of the model (max_tokens is %s)",
            task.name, f"{context:,}", f"{task.max_tokens:,}",
        )  # fmt: skip
    return min(context, task.max_tokens)


def _share_cut(examples: list[Example]) -> float:
    return sum(example.is_cut for example in examples) / len(examples)


def _tell(task: Task, examples: dict[str, list[Example]], cut: dict[str, float], max_tokens: int) -> None:
    for name, part in examples.items():
        mean = sum(len(example.input_ids) for example in part) / len(part)
        note = f", {cut[name]:.1%} of them cut to {max_tokens:,}" if cut[name] else ""
        log.info(
            "%s: %s has %s rows of %.0f tokens on average%s", task.name, name, f"{len(part):,}", mean, note
        )


def _engine(folder: Path, task: Task, seed: int, device: torch.device, bf16: bool) -> Engine:
    if task.engine == "padded":
        return PaddedEngine(folder, task, seed, device)
    model_type = read_json(folder / CONFIG_FILE).get("model_type")
    if task.engine == "auto" and model_type != MODEL_TYPE:
        log.info("%s: padded, as our encoder does not compute a %s", task.name, model_type)
        return PaddedEngine(folder, task, seed, device)
    return PackedEngine(folder, task, seed, device, fast_attention=bf16)


def _copy_tokenizer(source: Path, folder: Path) -> None:
    for pattern in TOKENIZER_FILES:
        for file in source.glob(pattern):
            shutil.copyfile(file, folder / file.name)
