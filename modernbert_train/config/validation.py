"""Check that the values of a recipe fit together.

All problems are reported at once. Each names the field, its value, what is allowed and what to do.
"""

import math
import re
from collections.abc import Iterator

from modernbert_train.common.files import url_problem
from modernbert_train.config.architecture import MAX_LAYERS
from modernbert_train.config.mixture import RESERVED
from modernbert_train.config.phase_validation import check_phase
from modernbert_train.config.quantities import (
    check_at_least_one,
    check_below_one,
    check_not_negative,
    check_positive,
    check_share,
    next_multiple,
)
from modernbert_train.config.schema import OPTIMIZERS, CacheConfig, InitConfig, ModelConfig, Recipe
from modernbert_train.config.skip import check_skip

NAME = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9_-]*"
)  # of phases and sources, which are parts of dotted keys and of paths
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CHARACTERS = "letters, digits, '_' and '-', starting with a letter or digit"
RUN_NAME_RULE = f"it becomes a folder name; use only '.', {_CHARACTERS}"
NUM_SEEDS = 2**32  # accepted by the global generators of both numpy and torch


def validate(recipe: Recipe, world_size: int = 1) -> list[str]:
    """Return the problems of a recipe on `world_size` ranks; an empty list if it is valid."""
    return [
        *_check_run(recipe),
        *_check_init(recipe.init),
        *check_model(recipe.model),
        *_check_data(recipe, world_size),
        *_check_masking(recipe),
        *_check_optimizer(recipe),
        *(problem for name in recipe.phases for problem in check_phase(recipe, name)),
    ]


def _check_run(recipe: Recipe) -> Iterator[str]:
    if not RUN_NAME.fullmatch(recipe.name):
        yield f"name is {recipe.name!r}: {RUN_NAME_RULE}"
    folder = recipe.run_folder.replace("{name}", "")
    if "{" in folder or "}" in folder or not recipe.run_folder.strip():
        yield f"run_folder is {recipe.run_folder!r}: must be a path, in which only {{name}} is replaced"
    for field, path in (("run_folder", recipe.run_folder), ("data.cache.folder", recipe.data.cache.folder)):
        if problem := url_problem(field, path):
            yield problem
    if not 0 <= recipe.seed < NUM_SEEDS:
        yield f"seed is {recipe.seed}: must be from 0 to {NUM_SEEDS - 1}"
    for field, names in (("phases", recipe.phases), ("data.sources", recipe.data.sources)):
        if not names:
            yield f"{field} is empty: add at least one"
        for name in names:
            if not NAME.fullmatch(name):
                yield f"{field} has the name {name!r}: use only {_CHARACTERS}"
    for name in RESERVED:
        if name in recipe.data.sources:
            yield f"data.sources has the name {name!r}, which is a keyword of mixtures; rename the source"
    counts = {
        "training.keep_checkpoints": recipe.training.keep_checkpoints,
        "training.log_every_steps": recipe.training.log_every_steps,
        "evaluation.max_rows": recipe.evaluation.max_rows,
    }
    yield from check_at_least_one("", counts)
    yield from check_share("evaluation.mask_rate", recipe.evaluation.mask_rate)


def _check_init(init: InitConfig) -> Iterator[str]:
    if init.from_ is not None:
        return
    remedy = "set init.from to a run folder, a checkpoint or a Hugging Face folder"
    if init.method != "copy":
        yield f"init.method is {init.method}, but init.from is not set, so there is no model to tile from; {remedy}"
    if init.transplant:
        yield f"init.transplant is true, but init.from is not set, so there are no embeddings to transfer; {remedy}"


def check_model(model: ModelConfig) -> Iterator[str]:
    """Yield the problems of a model."""
    sizes = {
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "num_hidden_layers": model.num_hidden_layers,
        "num_attention_heads": model.num_attention_heads,
        "intermediate_size": model.intermediate_size,
        "local_attention": model.local_attention,
        "global_attn_every_n_layers": model.global_attn_every_n_layers,
        "max_position_embeddings": model.max_position_embeddings,
    }
    yield from check_at_least_one("model.", sizes)
    if model.num_hidden_layers > MAX_LAYERS:
        yield f"model.num_hidden_layers is {model.num_hidden_layers}: must be at most {MAX_LAYERS:,}"
    reals = {
        "global_rope_theta": model.global_rope_theta,
        "local_rope_theta": model.local_rope_theta,
        "norm_eps": model.norm_eps,
        "initializer_range": model.initializer_range,
        "initializer_cutoff_factor": model.initializer_cutoff_factor,
    }
    yield from check_positive("model.", reals)
    for field in ("embedding_dropout", "attn_out_dropout", "mlp_out_dropout"):
        yield from check_below_one(f"model.{field}", getattr(model, field))
    if model.local_attention % 2:
        yield (
            f"model.local_attention is {model.local_attention}: must be even, because half of the window is on either "
            f"side of a token; use {model.local_attention + 1}"
        )
    if model.parallel_block and model.norm_placement == "post":
        yield (
            "model.parallel_block is true and model.norm_placement is post: parallel blocks need pre-norm; "
            "set norm_placement to pre, or parallel_block to false"
        )
    if model.num_attention_heads >= 1:
        yield from _check_heads(model)


def _check_heads(model: ModelConfig) -> Iterator[str]:
    hidden, heads = model.hidden_size, model.num_attention_heads
    if hidden % heads:
        yield (
            f"model.hidden_size is {hidden}, not a multiple of num_attention_heads ({heads}); "
            f"use {next_multiple(hidden, heads)}, or another number of heads"
        )
    elif model.positions == "rope" and hidden // heads % 2:
        yield (
            f"model.hidden_size is {hidden} and num_attention_heads {heads}: RoPE rotates pairs of dimensions, but a "
            f"head has {hidden // heads}; use an even number per head, such as hidden_size {hidden + heads}"
        )


def _check_cache(cache: CacheConfig) -> Iterator[str]:
    if not cache.folder.strip():
        yield "data.cache.folder is empty: name a folder on a local disk, such as /local/cache"
    if cache.limit_bytes == 0:
        yield "data.cache.limit_bytes is 0: set what the disk has room for, such as 500GB, or null for no limit"
    yield from check_at_least_one("data.cache.", {"download_attempts": cache.download_attempts})
    yield from check_positive("data.cache.", {"download_timeout_seconds": cache.download_timeout_seconds})


def _check_data(recipe: Recipe, world_size: int) -> Iterator[str]:
    data, timeout = recipe.data, recipe.training.rank_timeout_seconds
    yield from _check_cache(data.cache)
    yield from check_at_least_one(
        "data.", {"shuffle_rows": data.shuffle_rows, "num_streams": data.num_streams}
    )
    if data.num_streams < 1:
        return
    if data.num_streams < world_size:
        yield (
            f"data.num_streams is {data.num_streams}, less than the number of ranks ({world_size}), each of which "
            f"reads at least one; use at most {data.num_streams} rank{'s' if data.num_streams > 1 else ''}, or in a "
            f"new run at least {world_size} streams"
        )
    if data.num_canonical_nodes < 1 or data.num_streams % data.num_canonical_nodes:
        yield (
            f"data.num_canonical_nodes is {data.num_canonical_nodes}: must divide data.num_streams "
            f"({data.num_streams}); use {math.gcd(data.num_streams, max(0, data.num_canonical_nodes))}"
        )
    if not data.warn_epochs > 0:
        yield f"data.warn_epochs is {data.warn_epochs}: must be above 0 (.inf: never warn)"
    limits = {"data.stall_seconds": data.stall_seconds, "training.rank_timeout_seconds": timeout}
    yield from check_positive("", limits)
    if data.stall_seconds >= timeout:
        yield (
            f"data.stall_seconds is {data.stall_seconds:g}: must be less than training.rank_timeout_seconds "
            f"({timeout:g}), since ranks wait for one that waits for data; lower it, or raise the other"
        )
    yield from check_skip(data.skip, list(data.sources))
    if data.num_workers < 0:
        yield f"data.num_workers is {data.num_workers}: must be at least 0 (0: read in the training process)"


def _check_masking(recipe: Recipe) -> Iterator[str]:
    fractions = (recipe.masking.mask_fraction, recipe.masking.random_fraction)
    # `not (...)` instead of the opposite comparisons: NaN fails too.
    if not (min(fractions) >= 0 and sum(fractions) <= 1 + 1e-6):
        yield (
            f"masking.mask_fraction is {fractions[0]} and random_fraction {fractions[1]}: each must be at least 0, "
            "and together at most 1, such as 0.8 and 0.1"
        )


def _check_optimizer(recipe: Recipe) -> Iterator[str]:
    optimizer = recipe.optimizer
    if not all(0 <= beta < 1 for beta in optimizer.betas):
        yield (
            f"optimizer.betas is {list(optimizer.betas)}: each must be at least 0 and less than 1, such as [0.9, 0.98]"
        )
    yield from check_positive("optimizer.", {"eps": optimizer.eps})
    yield from check_not_negative("optimizer.weight_decay", optimizer.weight_decay)
    clip = optimizer.gradient_clip_norm
    if clip is not None and not clip > 0:
        yield f"optimizer.gradient_clip_norm is {clip}: must be above 0, or null for no clipping"
    momentum = optimizer.momentum
    if momentum is not None and not OPTIMIZERS[optimizer.name].has_momentum:
        yield (
            f"optimizer.momentum is {momentum}, but {optimizer.name} has no momentum; set it to null, or "
            "optimizer.name to muon"
        )
    elif momentum is not None:
        yield from check_below_one("optimizer.momentum", momentum, ", such as 0.95")
