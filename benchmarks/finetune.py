"""Compare steps of fine-tuning on packed and on padded rows: the same rows and weights, interleaved in one run.

    python -m benchmarks.finetune exported/base sst2                       # GLUE's SST-2, from the hub
    python -m benchmarks.finetune exported/base my/tasks.yaml:pairs batch_size=64 --steps 12
    python -m benchmarks.finetune answerdotai/ModernBERT-base glue/qnli --steps 40 device=gpu

A step is forward, backward and a fused AdamW update of a whole batch. Rows/s are per second of CPU time on a CPU (set
OMP_NUM_THREADS=1 for the figure of one core), per second of wall time on a GPU. The variants:

    packed               our encoder, rows joined without padding
    padded, by length    Transformers, a batch in parts of rows of similar length: the engine for other architectures
    padded to longest    Transformers, the whole batch padded to its longest row, as DataCollatorWithPadding does
    padded to N          Transformers, every row padded to max_tokens, as the ModernBERT paper's evaluation code does

The last column is the memory that a step needs besides weights and optimizer: on a CPU what the forward pass saves for
the backward pass, on a GPU the peak of allocated memory.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace

import torch
import transformers
from torch import Tensor

from benchmarks.attention import seconds
from modernbert_train.checkpoints.hf_folders import as_hf_folder
from modernbert_train.common.randomness import permutation
from modernbert_train.common.text import format_table
from modernbert_train.config.schema import OptimizerConfig
from modernbert_train.finetuning.engine import Engine
from modernbert_train.finetuning.examples import Example, encode, load_tokenizer
from modernbert_train.finetuning.loop import loss_sum, training_step
from modernbert_train.finetuning.packed import PackedEngine
from modernbert_train.finetuning.padded import PaddedEngine, pad
from modernbert_train.optim.optimizer import build_optimizer
from modernbert_train.tasks.device import device_of
from modernbert_train.tasks.reading import read_task
from modernbert_train.tasks.schema import Task
from modernbert_train.tasks.suite import find_task

# So small a rate that all variants have the weights of the start in every step.
LEARNING_RATE = 1e-9


class PaddedWholly(PaddedEngine):
    """Transformers' model on whole batches, padded to their longest row or to `to` tokens."""

    to: int | None = None

    def parts(self, lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
        """Return all rows as one part."""
        return [list(range(len(lengths)))]

    def logits(self, examples: Sequence[Example]) -> Tensor:
        """See `Engine`."""
        inputs = pad(examples, self._pad_id, self._device, self.to)
        logits = self.model(**inputs).logits.float()
        return logits[inputs["attention_mask"].bool()] if self._task.kind == "tokens" else logits


def saved_bytes(engine: Engine, batch: Sequence[Example], task: Task, bf16: bool) -> int:
    """Return the bytes that the forward pass of the first part of a batch saves for the backward pass."""
    weights = {weight.untyped_storage().data_ptr() for weight in engine.model.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    lengths = [len(example.input_ids) for example in batch]
    largest = 0
    for part in engine.parts(lengths, task.micro_batch_tokens):
        saved.clear()
        rows = [batch[row] for row in part]
        # The tensors live until the end of the context, so that no address is used twice.
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            with torch.autocast(engine.model.classifier.weight.device.type, torch.bfloat16, enabled=bf16):
                logits = engine.logits(rows)
            loss = loss_sum(logits, rows, task)
        largest = max(largest, sum(saved.values()))
        del loss, logits
    return largest


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="as for modernbert finetune, of type modernbert")
    parser.add_argument("task", help="FILE.yaml:NAME, or the name of a task of the package")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of the task")
    parser.add_argument("--steps", type=int, default=6, help="measured steps, after one to warm up")
    options = parser.parse_intermixed_args(arguments)
    transformers.logging.set_verbosity_error()
    task = find_task(options.task, options.overrides)
    device, bf16 = device_of(task)
    with as_hf_folder(options.model) as folder:
        rows = read_task(task).train
        chosen = permutation(len(rows), "benchmark")[: task.batch_size * (options.steps + 1)].tolist()
        examples = encode(rows.take(chosen), task.kind, load_tokenizer(folder), task.max_tokens, task.name)
        batches = [examples[i : i + task.batch_size] for i in range(0, len(examples), task.batch_size)]
        wholly = PaddedWholly(folder, task, 0, device)
        wholly_to_n = PaddedWholly(folder, task, 0, device)
        wholly_to_n.to = task.max_tokens
        engines: dict[str, Engine] = {
            "packed": PackedEngine(folder, task, 0, device, fast_attention=bf16),
            "padded, by length": PaddedEngine(folder, task, 0, device),
            "padded to longest": wholly,
            f"padded to {task.max_tokens}": wholly_to_n,
        }
    lengths = [len(example.input_ids) for example in examples]
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads\n"
        f"{task.name}: {options.steps} steps of {task.batch_size} rows, {sum(lengths) / len(lengths):.1f} tokens each, "
        f"{'bf16' if bf16 else 'fp32'} on {device}\n"
    )
    table = measure(engines, batches, replace(task, learning_rate=LEARNING_RATE), bf16)
    print(format_table(("variant", "rows/s", "packed is", "loss of step 1", "memory (MB)"), table))


def measure(
    engines: dict[str, Engine], batches: Sequence[Sequence[Example]], task: Task, bf16: bool
) -> list[tuple[str, ...]]:
    """Return a row of the table for each variant."""
    device = next(engines["packed"].model.parameters()).device
    config = OptimizerConfig(name="adamw", betas=task.betas, eps=task.eps, weight_decay=0.0)
    optimizers = {
        name: build_optimizer(engine.model, config, LEARNING_RATE) for name, engine in engines.items()
    }
    times: dict[str, list[float]] = {name: [] for name in engines}
    losses: dict[str, float] = {}
    memory = dict.fromkeys(engines, 0)
    for batch in batches:
        for name, engine in engines.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
            start = seconds(device)
            loss = training_step(engine, batch, task, optimizers[name], bf16)
            times[name].append(seconds(device) - start)
            losses.setdefault(name, loss.item())
            if device.type == "cuda":
                memory[name] = max(memory[name], torch.cuda.max_memory_allocated() - before)
    if device.type != "cuda":
        longest = max(batches, key=lambda batch: max(len(example.input_ids) for example in batch))
        memory = {name: saved_bytes(engine, longest, task, bf16) for name, engine in engines.items()}
    num_rows = sum(map(len, batches[1:]))
    speed = {name: num_rows / sum(spent[1:]) for name, spent in times.items()}
    return [
        (
            name, f"{speed[name]:,.1f}", f"{speed['packed'] / speed[name]:.2f} x", f"{losses[name]:.5f}",
            f"{memory[name] / 1e6:,.1f}",
        )
        for name in engines
    ]  # fmt: skip


if __name__ == "__main__":
    main()
