"""What happens around a step, as Composer callbacks.

State lives in the plan and the step; none of these has any to save.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from composer import Callback, Logger, State
from composer.utils import dist
from composer.utils.checkpoint import save_checkpoint
from torch.nn.utils import clip_grad_norm_, get_total_norm

from modernbert_train.config import EvaluationConfig, OptimizerConfig
from modernbert_train.config.schema import Precision
from modernbert_train.config.skip import range_text
from modernbert_train.data.batch import MicroBatch
from modernbert_train.data.loader import PlannedLoader
from modernbert_train.data.manifest import Split
from modernbert_train.data.reader import evaluation_batches
from modernbert_train.model import ModernBertForMaskedLM
from modernbert_train.optim.optimizer import apply_settings, set_learning_rate
from modernbert_train.optim.schedule import PhasePlan, RunPlan
from modernbert_train.training.checkpoint import checkpoint_path, finish_checkpoint, prune, unfinished_path
from modernbert_train.training.inputs import Inputs
from modernbert_train.training.jsonl import append_line, drop_after
from modernbert_train.training.mlm import autocast, model_inputs
from modernbert_train.training.ranks import on_rank_zero
from modernbert_train.training.run_files import POSITIONS_FILE

log = logging.getLogger(__name__)


def step_of(state: State) -> int:
    """Steps finished so far: at the start of a step its index, at its end the next one's."""
    return int(state.timestamp.batch)


class Schedule(Callback):
    """Sets the optimizer, rows of a micro-batch, RoPE theta and causality by the plan, dropout's numbers by the step.

    Before each step, and nothing here is carried from step to step, so nothing can be wrong after a restart.
    """

    def __init__(
        self, plan: RunPlan, model: ModernBertForMaskedLM, optimizer: OptimizerConfig, seed: int
    ) -> None:
        self._plan = plan
        self._model = model
        self._optimizer = optimizer
        self._seed = seed
        self._thetas: tuple[float, float] | None = None
        self._phase: str | None = None

    def batch_start(self, state: State, logger: Logger) -> None:
        step = step_of(state)
        phase = self._plan.phase_of(step)
        if (
            phase.name != self._phase
        ):  # also the first step after a restart: a checkpoint brings what it was saved with
            settings = replace(self._optimizer, weight_decay=phase.weight_decay)
            for optimizer in state.optimizers:
                apply_settings(optimizer, settings)
            self._phase = phase.name
        for optimizer in state.optimizers:
            set_learning_rate(optimizer, self._plan.learning_rate(step), phase.config.learning_rate)
        state.device_train_microbatch_size = phase.config.micro_batch_tokens // phase.config.row_tokens
        thetas = phase.config.global_rope_theta, phase.config.local_rope_theta
        if thetas != self._thetas:
            self._model.set_rope_theta(*thetas)
            self._thetas = thetas
        self._model.set_causal(phase.config.objective == "clm")
        # A million ranks, and then the next step: no two (seed, step, rank) of real runs share a state.
        torch.manual_seed((self._seed * 10**12 + step * 10**6 + dist.get_global_rank()) % 2**63)


class SkipSteps(Callback):
    """Moves the clock over the steps that the loader has left out, so that every step keeps its number.

    Before all other callbacks, and as soon as a batch is there: what they do follows from the clock.
    """

    def __init__(self, loader: PlannedLoader) -> None:
        self._rows = loader.dataset

    def after_dataloader(self, state: State, logger: Logger) -> None:
        first, step = step_of(state), self._rows.step - 1  # the batch is that of the latter
        if first < step and dist.get_global_rank() == 0:
            log.info("skipped by data.skip.steps: %s", range_text(range(first + 1, step + 1)))
        while step_of(state) < step:
            state.timestamp = state.timestamp.to_next_batch()


class GradientNorm(Callback):
    """The norm of the whole gradient, before clipping, where clipping is asked for or a step is logged."""

    def __init__(self, plan: RunPlan, clip_norm: float | None, log_every_steps: int) -> None:
        self._plan = plan
        self._clip_norm = clip_norm
        self._log_every_steps = log_every_steps
        self.norm: torch.Tensor | None = None

    def after_train_batch(self, state: State, logger: Logger) -> None:
        parameters = [parameter for parameter in state.model.parameters() if parameter.grad is not None]
        if self._clip_norm is not None:
            self.norm = clip_grad_norm_(parameters, self._clip_norm)
        elif self._plan.is_logged(step_of(state) + 1, self._log_every_steps):
            self.norm = get_total_norm([parameter.grad for parameter in parameters])


class StopOnNonFinite(Callback):
    """End the run, on every rank (the loss is summed over them), before a checkpoint of broken weights is written."""

    def batch_end(self, state: State, logger: Logger) -> None:
        assert state.total_loss_dict is not None
        loss = state.total_loss_dict["loss/train/total"]
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"loss is {loss} at step {step_of(state)}; nothing was saved since the last checkpoint. Start again "
                "with a lower learning_rate, a longer warmup_tokens or optimizer.gradient_clip_norm, "
                "or with training.precision=fp32"
            )


class SaveCheckpoints(Callback):
    """Write a checkpoint every so many tokens and at the end of each phase, whole or not at all; remove old ones."""

    def __init__(
        self,
        plan: RunPlan,
        run: Path,
        loader: PlannedLoader,
        every_tokens: int,
        keep: int,
        description: Mapping[str, Any],
    ) -> None:
        self._plan = plan
        self._run = run
        self._rows = loader.dataset
        self._every_tokens = every_tokens
        self._keep = keep
        self._description = dict(description)  # goes into every marker: architecture, tokenizer
        self._saved = -1  # steps at the last save

    def fit_start(self, state: State, logger: Logger) -> None:
        if dist.get_global_rank() == 0:
            drop_after(self._run / POSITIONS_FILE, step_of(state))

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        if self._plan.is_due(step_of(state) - 1, self._every_tokens):
            self.save(state)

    def save(self, state: State) -> None:
        """Save now, on all ranks together; nothing to do where this step was saved already."""
        step = step_of(state)
        if step == self._saved:
            return
        path = checkpoint_path(self._run, step)
        if not all(bool(torch.isfinite(parameter).all()) for parameter in state.model.parameters()):
            raise FloatingPointError(
                f"weights are no longer finite after step {step}, and not saved. Start again with a "
                "lower learning_rate or optimizer.gradient_clip_norm"
            )
        # Collective: every rank contributes its position in the data; rank 0 writes.
        save_checkpoint(state, str(unfinished_path(path)))
        rows = self._rows.state_dict(num_samples=0, from_beginning=False)
        on_rank_zero(lambda: self._finish(path, step, rows))
        self._saved = step

    def _finish(self, path: Path, step: int, rows: dict[str, Any]) -> None:
        positions = [position for _, position in sorted(rows["positions"].items())]
        line = {"step": step, "fingerprint": rows["fingerprint"], "positions": positions}
        append_line(self._run / POSITIONS_FILE, line)  # first: then every checkpoint has its line
        finish_checkpoint(path, {**position(self._plan, step), **self._description})
        prune(self._run, self._keep, step)


def position(plan: RunPlan, step: int) -> dict[str, Any]:
    """Where in the run a checkpoint after `step` steps stands; the phase is that of the last finished step."""
    phase = plan.phase_of(max(0, step - 1))
    phase_step = step - phase.first_step
    return {
        "step": step,
        "tokens": plan.tokens_before(step),
        "total_tokens": plan.total_tokens,
        "phase": phase.name,
        "phase_step": phase_step,
        "keep": phase_step == phase.num_steps,
        "context_tokens": phase.config.context_tokens,
        "global_rope_theta": phase.config.global_rope_theta,
        "local_rope_theta": phase.config.local_rope_theta,
        "objective": phase.config.objective,
    }


class Evaluate(Callback):
    """Held-out loss and accuracy of each source, on the same rows and masks for a context length and objective."""

    def __init__(
        self,
        plan: RunPlan,
        model: ModernBertForMaskedLM,
        inputs: Inputs,
        config: EvaluationConfig,
        precision: Precision,
    ) -> None:
        self._plan = plan
        self._model = model
        self._inputs = inputs
        self._config = config
        self._precision = precision
        # Number of the phase, source -> its batches.
        self._batches: tuple[int, dict[str, list[MicroBatch]]] | None = None
        self.results: dict[str, dict[str, float]] = {}  # source -> loss, accuracy of the last evaluation
        self.step = -1  # after which it was made

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        step = step_of(state)
        if not self._inputs.valid or not self._plan.is_due(step - 1, self._config.every_tokens):
            return
        phase = self._plan.phase_of(step - 1)
        self._model.eval()
        device = next(self._model.parameters()).device
        with torch.no_grad(), autocast(device, self._precision):
            for source, batches in self._of_phase(phase).items():
                self.results[source] = self._evaluate(state, batches)
        self._model.train()
        self.step = step
        for source, result in self.results.items():
            logger.log_metrics({f"eval/{source}/{name}": value for name, value in result.items()})

    def _evaluate(self, state: State, batches: list[MicroBatch]) -> dict[str, float]:
        sums = torch.zeros(3, dtype=torch.float64)  # loss, correct, masked
        for batch in batches:
            loss, correct = self._model.loss_sums(**model_inputs(state.device.batch_to_device(batch)))
            sums += torch.tensor([float(loss), float(correct), batch["num_masked"]], dtype=torch.float64)
        sums = state.device.tensor_to_device(sums)
        dist.all_reduce(sums)
        loss_sum, num_correct, num_masked = sums.tolist()
        return {"loss": loss_sum / num_masked, "accuracy": num_correct / num_masked}

    def _of_phase(self, phase: PhasePlan) -> dict[str, list[MicroBatch]]:
        """Rows are made once for a phase: reading them again would give the same."""
        if self._batches is None or self._batches[0] != phase.index:
            self._batches = (
                phase.index,
                {
                    source: list(self._read(source, split, phase))
                    for source, split in self._inputs.valid.items()
                },
            )
        return self._batches[1]

    def _read(self, source: str, split: Split, phase: PhasePlan) -> Any:
        return evaluation_batches(
            source,
            split,
            self._inputs.reader,
            self._inputs.tokenizer,
            self._inputs.masking,
            context_tokens=phase.config.context_tokens,
            row_tokens=phase.config.row_tokens,
            mask_rate=None if phase.mask_rate is None else self._config.mask_rate,
            max_rows=self._config.max_rows,
            rank=dist.get_global_rank(),
            world_size=dist.get_world_size(),
        )
