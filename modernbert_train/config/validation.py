"""How the fields of a recipe must fit together.

All problems are found at once; each names the field, its value and a remedy.
"""

import math
import re
from collections.abc import Iterator

from modernbert_train.config.mixture import RESERVED
from modernbert_train.config.phase_validation import check_phase
from modernbert_train.config.quantities import above_zero, next_multiple, share_of_tokens, zero_or_above
from modernbert_train.config.schema import CacheConfig, InitConfig, ModelConfig, Recipe
from modernbert_train.config.skip import check_skip

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # of phases and sources: parts of dotted keys and of paths
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
NUM_SEEDS = 2**32  # what numpy's and torch's global generators both take


def validate(recipe: Recipe, world_size: int = 1) -> list[str]:
    """Returns the problems of a recipe on `world_size` ranks, none for a sound one."""
    return [
        *_check_run(recipe),
        *_check_init(recipe.init),
        *_check_model(recipe.model),
        *_check_data(recipe, world_size),
        *_check_masking(recipe),
        *_check_optimizer(recipe),
        *(problem for name in recipe.phases for problem in check_phase(recipe, name, world_size)),
    ]


def _check_run(recipe: Recipe) -> Iterator[str]:
    characters = "use letters, digits, '_' and '-' only, a letter or digit first"
    if not RUN_NAME.fullmatch(recipe.name):
        yield f"name is {recipe.name!r}: it becomes the name of a folder; {characters} ('.' is allowed too)"
    folder = recipe.run_folder.replace("{name}", "")
    if "{" in folder or "}" in folder or not recipe.run_folder.strip():
        yield f"run_folder is {recipe.run_folder!r}: write a path; the only thing filled in is {{name}}"
    if not 0 <= recipe.seed < NUM_SEEDS:
        yield f"seed is {recipe.seed}: choose one from 0 to {NUM_SEEDS - 1}"
    for kind, names in (("phases", recipe.phases), ("data.sources", recipe.data.sources)):
        if not names:
            yield f"{kind} is empty: give at least one"
        for name in names:
            if not NAME.fullmatch(name):
                yield f"{kind} has one called {name!r}: {characters}"
    for name in RESERVED:
        if name in recipe.data.sources:
            yield f"data.sources has one called {name!r}, which means something else in a mixture; rename it"
    for field, value in (
        ("training.keep_checkpoints", recipe.training.keep_checkpoints),
        ("training.log_every_steps", recipe.training.log_every_steps),
        ("evaluation.max_rows", recipe.evaluation.max_rows),
    ):
        if value < 1:
            yield f"{field} is {value}: make it at least 1"
    yield from share_of_tokens("evaluation.mask_rate", recipe.evaluation.mask_rate)


def _check_init(init: InitConfig) -> Iterator[str]:
    if init.from_ is not None:
        return
    remedy = "name a run folder, checkpoint or Hugging Face folder in init.from"
    if init.method != "copy":
        yield f"init.method is {init.method}, but init.from says of no smaller model; {remedy}"
    if init.transplant:
        yield f"init.transplant is true, but init.from says of no embeddings; {remedy}"


def _check_model(model: ModelConfig) -> Iterator[str]:
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
    yield from (
        f"model.{field} is {value}: make it at least 1" for field, value in sizes.items() if value < 1
    )
    reals = {
        "global_rope_theta": model.global_rope_theta,
        "local_rope_theta": model.local_rope_theta,
        "norm_eps": model.norm_eps,
        "initializer_range": model.initializer_range,
        "initializer_cutoff_factor": model.initializer_cutoff_factor,
    }
    yield from above_zero("model", reals)
    for field in ("embedding_dropout", "attn_out_dropout", "mlp_out_dropout"):
        if not 0 <= getattr(model, field) < 1:
            yield f"model.{field} is {getattr(model, field)}: choose one from 0 up to, but without, 1"
    if model.vocab_size % 64:
        yield (
            f"model.vocab_size is {model.vocab_size}, not a multiple of 64, which slows down the decoder's "
            f"matrix products; use {next_multiple(model.vocab_size, 64)} (ids that no token has do no harm)"
        )
    if model.local_attention % 2:
        yield (
            f"model.local_attention is {model.local_attention}: it is the full width of the window, half of "
            f"it to either side; make it even, such as {model.local_attention + 1}"
        )
    if model.parallel_block and model.norm_placement == "post":
        yield (
            "model.parallel_block is true and norm_placement post: a parallel block reads its input through a "
            "norm, which stands before it; set norm_placement to pre, or parallel_block to false"
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
            f"model.hidden_size is {hidden} and num_attention_heads {heads}: the {hidden // heads} "
            f"dimensions of a head cannot be rotated in pairs; use an even number of them, such as "
            f"hidden_size {hidden + heads}"
        )


def _check_cache(cache: CacheConfig) -> Iterator[str]:
    if not cache.folder.strip():
        yield "data.cache.folder is empty: name a folder on a disk of the machine's own, such as /local/cache"
    if cache.limit_bytes == 0:
        yield "data.cache.limit_bytes is 0: name what the disk has room for, such as 500GB, or null for no limit"
    if cache.download_attempts < 1:
        yield f"data.cache.download_attempts is {cache.download_attempts}: make it at least 1"
    timeout = {"download_timeout_seconds": cache.download_timeout_seconds}
    yield from above_zero("data.cache", timeout)


def _check_data(recipe: Recipe, world_size: int) -> Iterator[str]:
    data = recipe.data
    yield from _check_cache(data.cache)
    if data.shuffle_rows < 1:
        yield f"data.shuffle_rows is {data.shuffle_rows}: make it at least 1"
    if data.num_streams < 1:
        yield f"data.num_streams is {data.num_streams}: make it at least 1"
        return
    if data.num_streams % world_size:
        yield (
            f"data.num_streams is {data.num_streams}, which {world_size} ranks do not divide: each reads an equal "
            f"share of the streams; use {next_multiple(data.num_streams, world_size)}, or another number of ranks"
        )
    if data.num_canonical_nodes < 1 or data.num_streams % data.num_canonical_nodes:
        yield (
            f"data.num_canonical_nodes is {data.num_canonical_nodes}, which does not divide data.num_streams "
            f"{data.num_streams}: each serves an equal share of the "
            f"streams; use {math.gcd(data.num_streams, max(0, data.num_canonical_nodes))}"
        )
    if not data.warn_epochs > 0:
        yield f"data.warn_epochs is {data.warn_epochs}: make it a number above 0 (.inf: never warn)"
    yield from check_skip(data.skip, list(data.sources))
    per_rank = max(1, data.num_streams // world_size)
    if not 0 <= data.num_workers <= per_rank:
        yield (
            f"data.num_workers is {data.num_workers}: a worker reads at least one of the streams of its "
            f"rank, which are {per_rank} here (data.num_streams {data.num_streams}, ranks {world_size}); "
            f"choose one from 0 to {per_rank}"
        )


def _check_masking(recipe: Recipe) -> Iterator[str]:
    masking = recipe.masking
    fractions = (masking.mask_fraction, masking.random_fraction, masking.keep_fraction)
    # `not (...)` instead of the opposite comparisons: a fraction that is not a number fails too.
    if not all(0 <= fraction <= 1 for fraction in fractions) or not abs(sum(fractions) - 1) <= 1e-6:
        yield (
            "masking.mask_fraction, random_fraction and keep_fraction are {}, {} and {}: ".format(*fractions)
            + "they are shares, each from 0 to 1, and must add up to 1, such as 0.8, 0.1 and 0.1"
        )


def _check_optimizer(recipe: Recipe) -> Iterator[str]:
    optimizer = recipe.optimizer
    if not all(0 <= beta < 1 for beta in optimizer.betas):
        yield (
            f"optimizer.betas is {list(optimizer.betas)}: each must be from 0 up to, but without, 1, "
            "such as [0.9, 0.98]"
        )
    yield from above_zero("optimizer", {"eps": optimizer.eps})
    yield from zero_or_above("optimizer.weight_decay", optimizer.weight_decay)
    clip = optimizer.gradient_clip_norm
    if clip is not None and not clip > 0:
        yield f"optimizer.gradient_clip_norm is {clip}: make it above 0, or null for no clipping"
    momentum = optimizer.momentum
    if momentum is not None and optimizer.name != "muon":
        yield (
            f"optimizer.momentum is {momentum}, which {optimizer.name} does not read; set it to null, or "
            "optimizer.name to muon"
        )
    elif momentum is not None and not 0 <= momentum < 1:
        yield f"optimizer.momentum is {momentum}: choose one from 0 up to, but without, 1, such as 0.95"
