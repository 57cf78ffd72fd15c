"""Training from a recipe to a finished run. `train` builds everything, in order of dependency."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack, closing
from pathlib import Path

import torch
from composer import Trainer
from composer.devices import DeviceGPU
from composer.utils import dist

from modernbert_train.checkpoints.checkpoint import find_latest
from modernbert_train.checkpoints.info import CheckpointInfo, read_info
from modernbert_train.checkpoints.initial import log_start, set_first_weights
from modernbert_train.checkpoints.provenance import check_unchanged, prepare_run_folder
from modernbert_train.config import Recipe
from modernbert_train.config.schema import Precision
from modernbert_train.data.inputs import Inputs, plan_rows, skipped_text
from modernbert_train.data.loader import PlannedLoader, PlannedRows
from modernbert_train.model import ModernBertForMaskedLM, resolve_backend
from modernbert_train.optim.optimizer import build_optimizer
from modernbert_train.planning.cost import peak_flops
from modernbert_train.planning.downloads import check_downloads
from modernbert_train.planning.source_stats import log_sources
from modernbert_train.schedule import RunSchedule, build_schedule
from modernbert_train.training.callbacks.checkpoints import SaveCheckpoints, checkpoint_info
from modernbert_train.training.callbacks.ddp_warmup import SettleBuckets
from modernbert_train.training.callbacks.ema import WeightAverage
from modernbert_train.training.callbacks.evaluation import Evaluate
from modernbert_train.training.callbacks.gradients import GradientNorm, StopOnNonFinite
from modernbert_train.training.callbacks.metrics import Metrics
from modernbert_train.training.callbacks.preemption import (
    Preempted,
    StopSignals,
    StopWhenAsked,
    end_with_launcher,
    shield_workers,
)
from modernbert_train.training.callbacks.schedule import Schedule, SkipSteps
from modernbert_train.training.composer_model import MaskedLanguageModel, data_spec
from modernbert_train.training.distributed.preflight import agree, check_run_folder
from modernbert_train.training.distributed.ranks import on_rank_zero
from modernbert_train.training.distributed.rendezvous import TIMEOUT_SECONDS, join
from modernbert_train.training.distributed.run_lock import only_run_in
from modernbert_train.training.loggers import loggers

log = logging.getLogger(__name__)


def train(recipe: Recipe) -> Path:
    """Train a recipe, from the newest good checkpoint in its run folder if there is one. Collective.

    Returns:
        The run folder.

    Raises:
        ValueError: something that the user can fix: world size, data, tokenizer, a checkpoint that does not fit the
            recipe, another run in the same folder.
        Preempted: a signal asked the run to stop, and it has saved.

    """
    end_with_launcher()
    with ExitStack() as stack:
        signals = stack.enter_context(StopSignals())
        device = resolve_device(recipe)
        join(device)
        _share_cores(device)
        inputs = agree(recipe, device)
        stack.enter_context(closing(inputs.reader))
        run = Path(recipe.run_folder)
        stack.enter_context(only_run_in(run))
        check_run_folder(run)

        plan = build_schedule(recipe)
        checkpoint = on_rank_zero(lambda: _newest_checkpoint(run))
        if checkpoint is not None:
            path, info = checkpoint
            log.info("resuming from %s", path)
            on_rank_zero(lambda: check_unchanged(run, recipe, inputs.tokenizer))
            check_clock(plan, path, info)
            if info.step >= plan.total_steps:
                log.info("%s is finished: %d steps, %s tokens", run, info.step, f"{info.tokens:,}")
                return run

        model = build_model(recipe, device)
        if checkpoint is None:
            start = set_first_weights(model, recipe, inputs.tokenizer)
            if start is not None and dist.get_global_rank() == 0:
                log_start(start, plan.phases[0].config)
        loader = build_loader(recipe, plan, inputs)
        trainer = build_trainer(
            recipe, plan, inputs, model, loader, device, str(checkpoint[0]) if checkpoint else None, signals
        )
        # Last, so that a start that fails leaves the folder as it was.
        skipped, world_size = skipped_text(plan, inputs), dist.get_world_size()
        on_rank_zero(
            lambda: prepare_run_folder(run, recipe, inputs.tokenizer, world_size, checkpoint is None, skipped)
        )
        trainer.fit()
        trainer.close()
        if signals.stopped_after is not None:
            raise Preempted(
                f"stopped and saved after step {signals.stopped_after}; run the same command to resume"
            )
        return run


def _share_cores(device: str) -> None:
    """Divide the cores among the ranks of a machine; with all cores for each, they slow one another down."""
    ranks = dist.get_local_world_size()
    if device == "cpu" and ranks > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // ranks))


def resolve_device(recipe: Recipe) -> str:
    """Composer's name of the device, "gpu" or "cpu". ValueError if a GPU is asked for and there is none."""
    if recipe.training.device == "gpu" and not torch.cuda.is_available():
        raise ValueError(
            "training.device is gpu, but torch finds no CUDA device; set it to auto or cpu, or check the driver"
        )
    if recipe.training.device == "auto":
        return "gpu" if torch.cuda.is_available() else "cpu"
    return recipe.training.device


def resolve_precision(recipe: Recipe, device: str) -> Precision:
    """What the forward pass computes in: "auto" is bf16 on a GPU, and fp32 on a CPU: most are slower in bf16."""
    if recipe.training.precision == "auto":
        return "bf16" if device == "gpu" else "fp32"
    return recipe.training.precision


def build_model(recipe: Recipe, device: str) -> ModernBertForMaskedLM:
    """The encoder on the CPU; its weights follow, a checkpoint's or the first ones."""
    requested = recipe.training.attention_backend
    if requested == "auto" and device == "gpu" and resolve_precision(recipe, device) == "fp32":
        requested = "torch"  # the plain one: flash kernels know half precision alone
    backend, reason = resolve_backend(requested, "cuda" if device == "gpu" else "cpu")
    log.info("attention backend: %s (%s)", backend, reason)
    return ModernBertForMaskedLM(recipe.model, attention_backend=backend)


def build_loader(recipe: Recipe, plan: RunSchedule, inputs: Inputs) -> PlannedLoader:
    """The batches of this rank over the whole run."""
    phases = plan_rows(recipe, plan, inputs)
    check_downloads(recipe.data, phases, inputs, dist.get_world_size(), dist.get_local_world_size())
    if dist.get_global_rank() == 0:
        log_sources(plan, phases, recipe.data.warn_epochs)
    rows = PlannedRows(
        phases,
        inputs,
        rank=dist.get_global_rank(),
        world_size=dist.get_world_size(),
        skipped_steps=plan.skipped,
    )
    loader = PlannedLoader(rows, num_workers=recipe.data.num_workers)
    shield_workers(loader)
    return loader


def build_trainer(
    recipe: Recipe,
    plan: RunSchedule,
    inputs: Inputs,
    model: ModernBertForMaskedLM,
    loader: PlannedLoader,
    device: str,
    checkpoint: str | None,
    signals: StopSignals,
) -> Trainer:
    """Composer's Trainer over one epoch that is the whole run; phases are a matter of the plan."""
    training, run = recipe.training, Path(recipe.run_folder)
    first_phase = plan.phases[0].config
    gradient = GradientNorm(plan, recipe.optimizer.gradient_clip_norm, training.log_every_steps)
    precision = resolve_precision(recipe, device)
    evaluate = Evaluate(plan, model, inputs, recipe.evaluation, precision)
    metrics = Metrics(
        plan,
        run,
        loader,
        gradient,
        evaluate,
        log_every_steps=training.log_every_steps,
        progress_bar=training.progress_bar,
        peak_flops=peak_flops(),
        model=recipe.model,
        sources=list(inputs.train),
    )
    save = SaveCheckpoints(
        plan,
        run,
        loader,
        training.save_every_tokens,
        training.keep_checkpoints,
        recipe.model,
        inputs.tokenizer.fingerprint,
    )
    half_life = training.ema_half_life_tokens
    averages = [WeightAverage(plan, model, half_life)] if half_life else []
    module = MaskedLanguageModel(model, precision, training.compile)
    if device == "gpu":
        module.cuda()
    return Trainer(
        model=module,
        train_dataloader=data_spec(loader, inputs.tokenizer.pad_id),
        max_duration=f"{plan.total_steps}ba",
        optimizers=build_optimizer(module, recipe.optimizer, first_phase.learning_rate),
        # The order matters: what sets the step, what is measured, what may stop the run, what looks at weights and
        # keeps them.
        callbacks=[
            SkipSteps(loader),
            Schedule(plan, model, recipe.optimizer, recipe.seed),
            SettleBuckets(inputs.tokenizer.pad_id),
            gradient,
            StopOnNonFinite(),
            *averages,
            evaluate,
            metrics,
            save,
            StopWhenAsked(plan, signals, save),
        ],
        loggers=loggers(recipe, run),
        device=DeviceGPU(allow_tf32=precision == "bf16") if device == "gpu" else device,
        precision="fp32",  # of weights and gradients; the forward pass does its own autocast
        device_train_microbatch_size=first_phase.micro_batch_tokens // first_phase.row_tokens,
        accumulate_train_batch_on_tokens=True,
        seed=recipe.seed,
        run_name=recipe.name,
        progress_bar=False,  # ours speaks of tokens and phases
        load_path=checkpoint,
        spin_dataloaders=False,
        dist_timeout=TIMEOUT_SECONDS,
        auto_log_hparams=False,
    )


def _newest_checkpoint(run: Path) -> tuple[Path, CheckpointInfo] | None:
    """Path and facts of the newest good checkpoint, if there is one. ValueError: it holds weights alone."""
    latest = find_latest(run)
    if latest is None:
        return None
    info = read_info(latest)
    if info.weights_only:
        raise ValueError(
            f"run_folder is {run}, in which {latest.name} holds weights without an optimizer's state, as import and "
            f"average make them: no run can go on from it; name another run_folder, and begin with init.from={run}"
        )
    return latest, info


def check_clock(schedule: RunSchedule, path: Path, info: CheckpointInfo) -> None:
    """Check that the recipe puts the checkpoint's step where the run made it: past phases must not change.

    Raises:
        ValueError: The recipe now has other tokens, or another phase, at this step.

    """
    if info.step > schedule.total_steps:
        return
    by_recipe = checkpoint_info(schedule, info.step, info.model, info.tokenizer_fingerprint)
    if by_recipe.tokens != info.tokens:
        mismatch = (
            f"{info.step} steps are {by_recipe.tokens:,} tokens by the recipe, but {path} was made after "
            f"{info.tokens:,}"
        )
    elif (by_recipe.phase, by_recipe.phase_step) != (info.phase, info.phase_step):
        mismatch = (
            f"step {info.step} is number {by_recipe.phase_step} of {by_recipe.phase} by the recipe, but {path} was "
            f"made after number {info.phase_step} of {info.phase}"
        )
    else:
        return
    raise ValueError(
        f"phases: {mismatch}: names, tokens, batch_tokens, batch_ramp or row_tokens of phases that have begun were "
        "changed; restore them, or start a new run from its weights with init.from"
    )
