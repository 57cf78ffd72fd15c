"""The gradient of the first step of a recipe, in float64, through the real Trainer on all ranks."""

from contextlib import closing, suppress
from pathlib import Path

import torch
from composer import Callback
from composer.utils import dist

from modernbert_train.checkpoints.initial import set_initial_weights
from modernbert_train.config import Recipe, load_recipe
from modernbert_train.data.inputs import open_inputs
from modernbert_train.training.callbacks.preemption import StopSignals
from modernbert_train.training.train import build_loader, build_model, build_trainer, plan_run


class _Stop(Exception):
    pass


class _Catch(Callback):
    def __init__(self) -> None:
        self.gradients: dict[str, torch.Tensor] = {}

    def after_train_batch(self, state, logger):
        model = getattr(state.model, "module", state.model)
        self.gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
        raise _Stop


def first_gradient(recipe: Recipe) -> dict[str, torch.Tensor]:
    """Return the gradient of the whole batch by parameter name, averaged over the targets of all ranks."""
    dist.initialize_dist("cpu")
    inputs = open_inputs(recipe)
    with closing(inputs.reader):
        run = plan_run(recipe, inputs, "cpu")
        model = build_model(run)
        set_initial_weights(model, recipe, inputs.tokenizer)
        model = model.double()
        loader = build_loader(run)
        trainer = build_trainer(run, model, loader, StopSignals())
        catch = _Catch()
        trainer.state.callbacks.append(catch)
        with suppress(_Stop):
            trainer.fit()
        trainer.close()
    return catch.gradients


def save_first_gradient(recipe: Path, out: Path, overrides: list[str]) -> None:
    """Write what `first_gradient` returns to `out`, on rank 0."""
    gradients = first_gradient(load_recipe(recipe, overrides))
    if dist.get_global_rank() == 0:
        torch.save(gradients, out)
