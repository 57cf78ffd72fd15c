"""Training from a recipe to a finished run. `train` builds everything, in order of dependency."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import torch
from composer import Callback, Trainer
from composer.devices import DeviceGPU
from composer.utils import dist

from modernbert_train.checkpoints.initial import log_start, set_initial_weights
from modernbert_train.checkpoints.provenance import prepare_run_folder
from modernbert_train.checkpoints.rewind import start_over
from modernbert_train.checkpoints.run_files import list_checkpoints
from modernbert_train.config import Recipe
from modernbert_train.data.inputs import Inputs, describe_skipped, plan_rows
from modernbert_train.data.loader import PlannedLoader, PlannedRows
from modernbert_train.model import ModernBertForMaskedLM, resolve_backend
from modernbert_train.optim.optimizer import build_optimizer
from modernbert_train.planning.device import resolve_device, resolve_precision
from modernbert_train.planning.downloads import check_downloads
from modernbert_train.planning.source_stats import log_sources, texts_of
from modernbert_train.schedule import build_schedule
from modernbert_train.training.callbacks.batches import BatchContents
from modernbert_train.training.callbacks.checkpoints import SaveCheckpoints
from modernbert_train.training.callbacks.ddp_warmup import WarmUpDDP
from modernbert_train.training.callbacks.ema import WeightAverage
from modernbert_train.training.callbacks.evaluation import Evaluate
from modernbert_train.training.callbacks.gradients import GradientNorm, StopOnNonFinite
from modernbert_train.training.callbacks.metrics import MetricsLogger
from modernbert_train.training.callbacks.preemption import (
    Preempted,
    StopSignals,
    StopWhenAsked,
    end_with_launcher,
    shield_workers,
)
from modernbert_train.training.callbacks.restart import LoadCheckpoint
from modernbert_train.training.callbacks.schedule import Schedule, SkipSteps
from modernbert_train.training.callbacks.throughput import PeakMemory, Throughput
from modernbert_train.training.composer_model import MaskedLanguageModel, data_spec
from modernbert_train.training.distributed.preflight import agree, check_run_folder
from modernbert_train.training.distributed.ranks import is_rank_zero, on_rank_zero
from modernbert_train.training.distributed.rendezvous import LATER_SECONDS, join
from modernbert_train.training.distributed.run_lock import only_run_in
from modernbert_train.training.distributed.watch import Watch
from modernbert_train.training.loggers import check_wandb, log_wandb_upload, loggers
from modernbert_train.training.restart import find_checkpoint
from modernbert_train.training.run import Run

log = logging.getLogger(__name__)


def train(recipe: Recipe, restart_from_scratch: bool = False) -> Path:
    """Train a recipe, from the newest good checkpoint in its run folder if there is one. Collective.

    Args:
        recipe: the recipe.
        restart_from_scratch: whether to begin anew where the checkpoints of a run that has begun are lost or damaged.

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
        timeout_seconds = recipe.training.rank_timeout_seconds
        store = join(device, timeout_seconds)
        watch = Watch(store, dist.get_global_rank(), dist.get_world_size(), timeout_seconds)
        stack.enter_context(watch)
        on_rank_zero(lambda: check_wandb(recipe.wandb))
        _share_cores(device)
        inputs = agree(recipe, device)
        stack.enter_context(closing(inputs.reader))
        run = plan_run(recipe, inputs, device)
        stack.enter_context(only_run_in(run.folder))
        check_run_folder(run.folder)
        checkpoint, info = find_checkpoint(run, restart_from_scratch) or (None, None)
        if info is not None and info.step >= run.schedule.total_steps:
            log.info("%s is finished: %d steps, %s tokens", run.folder, info.step, f"{info.tokens:,}")
            return run.folder
        if info is not None and info.run is not None:
            run = replace(run, id=info.run)
        model = build_model(run)
        if checkpoint is None:
            initialize(model, run)
        loader = build_loader(run)
        stack.callback(loader.close)
        if checkpoint is None:
            on_rank_zero(lambda: start_over(run.folder))
        trainer = build_trainer(run, model, loader, signals, checkpoint)
        # Last, so that a start that fails leaves the folder as it was.
        _prepare_folder(run, fresh=checkpoint is None)
        trainer.fit()
        trainer.close()
        if is_rank_zero():
            log_wandb_upload(recipe.wandb, run.folder)
        if signals.stopped_after is not None:
            raise Preempted(
                f"stopped and saved after step {signals.stopped_after}; run the same command to resume",
                signals.exit_code,
            )
        if is_rank_zero():
            log.info("%s", describe_end(run.folder))
        return run.folder


def describe_end(folder: Path) -> str:
    """Return where the run has ended and what to do with it."""
    return (
        f"finished: {list_checkpoints(folder)[-1]}; look at it with `modernbert report {folder}` and `modernbert "
        f"evaluate {folder}`, and use it after `modernbert export {folder} NEW_FOLDER`"
    )


def plan_run(recipe: Recipe, inputs: Inputs, device: str) -> Run:
    """Return the run of a recipe on `device`."""
    precision, schedule = resolve_precision(recipe, device), build_schedule(recipe)
    phases = plan_rows(recipe, schedule, inputs)
    return Run(recipe, schedule, inputs, phases, device, precision, Path(recipe.run_folder))


def initialize(model: ModernBertForMaskedLM, run: Run) -> None:
    """Set the initial weights of a new run."""
    start = set_initial_weights(model, run.recipe, run.inputs.tokenizer)
    if start is not None and is_rank_zero():
        log_start(start, run.schedule.phases[0].config)


def _prepare_folder(run: Run, fresh: bool) -> None:
    skipped, world_size = describe_skipped(run.schedule, run.inputs), dist.get_world_size()
    device = torch.cuda.get_device_name() if run.device == "gpu" else "cpu"
    on_rank_zero(
        lambda: prepare_run_folder(
            run.folder, run.recipe, run.inputs.tokenizer, run.id, world_size, fresh, skipped, device
        )
    )


def _share_cores(device: str) -> None:
    """Divide the cores among the ranks of a machine; with all cores for each, they slow one another down."""
    ranks = dist.get_local_world_size()
    if device == "cpu" and ranks > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // ranks))


def build_model(run: Run) -> ModernBertForMaskedLM:
    """Build the encoder on the CPU, without its weights: those of a checkpoint or the first ones follow."""
    requested = run.recipe.training.attention_backend
    if requested == "auto" and run.device == "gpu" and run.precision == "fp32":
        requested = "torch"  # flash kernels compute in half precision only
    backend, reason = resolve_backend(requested, "cuda" if run.device == "gpu" else "cpu")
    log.info("attention backend: %s (%s)", backend, reason)
    return ModernBertForMaskedLM(run.recipe.model, attention_backend=backend)


def build_loader(run: Run) -> PlannedLoader:
    """Build the loader of this rank's batches over the whole run."""
    data, inputs, phases = run.recipe.data, run.inputs, run.phases
    check_downloads(data, phases, inputs, dist.get_world_size(), dist.get_local_world_size())
    if is_rank_zero():
        texts = texts_of(run.recipe, inputs.manifests)
        unhashed = {name: inputs.reader.num_unhashed(split) for name, split in inputs.train.items()}
        log_sources(run.schedule, phases, data.warn_epochs, texts, unhashed)
        for phase in run.schedule.phases:
            if (share := run.share(phase.config)).padding:
                log.info("%s: each batch is %s", phase.name, share.describe())
    rows = PlannedRows(
        phases,
        inputs,
        rank=dist.get_global_rank(),
        world_size=dist.get_world_size(),
        skipped_steps=run.schedule.skipped,
    )
    loader = PlannedLoader(
        rows, num_workers=min(data.num_workers, rows.num_streams), stall_seconds=data.stall_seconds
    )
    shield_workers(loader)
    return loader


def build_trainer(
    run: Run,
    model: ModernBertForMaskedLM,
    loader: PlannedLoader,
    signals: StopSignals,
    checkpoint: Path | None = None,
) -> Trainer:
    """Build Composer's Trainer.

    For Composer the whole run is one epoch; the phases are up to the callbacks.

    Args:
        run: the run.
        model: the encoder, on the CPU.
        loader: the batches of this rank.
        signals: where a request to stop is noted.
        checkpoint: the checkpoint to resume from.

    Returns:
        The trainer, with the checkpoint loaded.
    """
    recipe, pad_id = run.recipe, run.inputs.tokenizer.pad_id
    first_phase = run.schedule.phases[0].config
    module = MaskedLanguageModel(model, run.precision, recipe.training.compile)
    if run.device == "gpu":
        module.cuda()
    return Trainer(
        model=module,
        train_dataloader=data_spec(loader, pad_id),
        max_duration=f"{run.schedule.total_steps}ba",
        optimizers=build_optimizer(module, recipe.optimizer, first_phase.learning_rate),
        callbacks=[
            *build_callbacks(run, model, loader, signals),
            *([] if checkpoint is None else [LoadCheckpoint(checkpoint)]),
        ],
        loggers=loggers(recipe, run.folder),
        device=DeviceGPU(allow_tf32=run.precision == "bf16") if run.device == "gpu" else run.device,
        precision="fp32",  # of weights and gradients; the model's forward pass has its own autocast
        device_train_microbatch_size=run.share(first_phase).micro_batch_rows,
        accumulate_train_batch_on_tokens=True,
        seed=recipe.seed,
        run_name=recipe.name,
        progress_bar=False,  # MetricsLogger has one that counts tokens
        spin_dataloaders=False,
        dist_timeout=recipe.training.rank_timeout_seconds + LATER_SECONDS,
        auto_log_hparams=False,
    )


def build_callbacks(
    run: Run, model: ModernBertForMaskedLM, loader: PlannedLoader, signals: StopSignals
) -> list[Callback]:
    """Build the callbacks in the order in which Composer calls them."""
    evaluate, save = Evaluate(run, model), SaveCheckpoints(run, loader)
    set_the_step = [SkipSteps(loader), Schedule(run, model), WarmUpDDP(run.inputs.tokenizer.pad_id)]
    check_and_measure = [
        GradientNorm(run),
        StopOnNonFinite(run),
        *([WeightAverage(run, model)] if run.recipe.training.ema_half_life_tokens else []),
        evaluate,
        Throughput(run, loader),
        BatchContents(run, loader),
        PeakMemory(),
    ]
    return [
        *set_the_step,
        *check_and_measure,
        MetricsLogger(run, evaluate),
        save,
        StopWhenAsked(run, signals, save),
    ]
