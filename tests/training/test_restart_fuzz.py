"""A restart from a checkpoint with any state: it is loaded, or refused in one line."""

import random
from contextlib import closing

import pytest
import torch
from composer import State
from composer.utils import dist

from modernbert_train.checkpoints.checkpoint import finish_checkpoint, load_tensors, unfinished_path
from modernbert_train.checkpoints.info import read_info
from modernbert_train.checkpoints.run_files import list_checkpoints
from modernbert_train.config import load_recipe
from modernbert_train.data.inputs import open_inputs
from modernbert_train.training.callbacks.preemption import StopSignals
from modernbert_train.training.callbacks.restart import LoadCheckpoint
from modernbert_train.training.restart import find_checkpoint
from modernbert_train.training.train import build_loader, build_model, build_trainer, plan_run, train
from tests.helpers.mutations import VALUES, mutate_tree, outcomes, parts

SMALL = ["phases.extension=null", "phases.pretrain.batch_ramp=null", "phases.pretrain.tokens=4K"]
SMALL += ["phases.pretrain.warmup_tokens=1K", "model.hidden_size=8", "model.intermediate_size=8"]
SMALL += ["model.num_hidden_layers=1", "training.ema_half_life_tokens=8K", "data.num_workers=0"]


@pytest.mark.parametrize("seeds", parts(100, 2_000))
def test_states_of_any_content(tiny, tmp_path, seeds):
    recipe = load_recipe(tiny, [*SMALL, f"run_folder={tmp_path}/run"])
    path = list_checkpoints(train(recipe))[-1]
    content, info = load_tensors(path, mapped=False), read_info(path)
    values = [*VALUES, torch.ones(3), torch.tensor(1.0), torch.tensor(1), (0, 0), {0: (0, 0)}]
    dist.initialize_dist("cpu")
    with closing((inputs := open_inputs(recipe)).reader):
        run = plan_run(recipe, inputs, "cpu")
        model = build_model(run)
        trainer = build_trainer(run, model, build_loader(run), StopSignals())

        def attempt(choose: random.Random) -> None:
            torch.save(mutate_tree(content, choose, values), unfinished_path(path))
            finish_checkpoint(path, info)
            checkpoint = find_checkpoint(run)
            assert checkpoint is not None
            load(trainer.state, LoadCheckpoint(checkpoint[0]))

        def load(state: State, callback: LoadCheckpoint) -> None:
            callback.before_load(state, trainer.logger)
            assert all(weight.isfinite().all() for weight in model.parameters())

        found = outcomes(seeds, attempt)
        trainer.close()
    assert found["refused"] > len(seeds) / 4
    print(found)
