"""`modernbert average`: make one checkpoint from several, or from the moving average in one.

    OUT/checkpoints/step-00000120.pt, .json   OUT/tokenizer.json   OUT/tokenizer_config.json   OUT/recipe.yaml

The result holds weights only, and can be exported, evaluated and used in `init.from`. Its position in the run, recipe
and tokenizer are those of the checkpoint with the most tokens.
"""

import dataclasses
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from modernbert_train.checkpoints.checkpoint import save_weights
from modernbert_train.checkpoints.merging import mean, ties
from modernbert_train.checkpoints.run_files import RECIPE_FILE
from modernbert_train.checkpoints.source import WeightSource, open_weights
from modernbert_train.common.files import new_folder
from modernbert_train.config import ModelConfig
from modernbert_train.config.comparison import architecture_settings, changed_settings
from modernbert_train.store.tokenizer import copy_tokenizer


def average_checkpoints(
    checkpoints: Sequence[str | Path],
    out: str | Path,
    weights: Sequence[float] | None = None,
    ema: bool = False,
) -> Path:
    """Write the mean of checkpoints to a new folder.

    Args:
        checkpoints: Run folders, `.pt` files or Hugging Face folders.
        out: A folder that is empty or does not exist.
        weights: A positive weight for each checkpoint, scaled to add up to 1. None: equal weights.
        ema: Average the moving averages in the checkpoints, instead of their weights.

    Returns:
        `out`.

    Raises:
        ValueError: Models or tokenizers differ, `weights` are not one positive number for each checkpoint, there is
            no moving average, or `out` is not empty.
    """
    sources = [open_weights(path) for path in checkpoints]
    weights = [1.0] * len(sources) if weights is None else weights
    _check_weights(weights, len(sources))
    if len(sources) == 1 and not ema:
        raise ValueError(f"{checkpoints[0]}: a single checkpoint is its own mean; name more, or use --ema")
    _check_alike(sources)
    what = "the moving average of" if ema else "the mean of"
    shares = [f"{source} by {weight:g}" for source, weight in zip(sources, weights, strict=True)]
    text = f"{what} {', '.join(map(str, sources) if len(set(weights)) == 1 else shares)}"
    with new_folder(Path(out)) as folder:
        _write(folder, mean(_read(sources, ema), weights), sources, text)
    return Path(out)


def ties_checkpoints(
    checkpoints: Sequence[str | Path], base: str | Path, out: str | Path, density: float = 0.2
) -> Path:
    """Write the TIES merge of checkpoints to a new folder.

    Args:
        checkpoints: Two or more checkpoints, all trained further from `base`.
        base: The checkpoint they started from.
        out: A folder that is empty or does not exist.
        density: Share of each checkpoint's changes that is kept; 0.2 is the paper's.

    Returns:
        `out`.

    Raises:
        ValueError: There are fewer than two checkpoints, `density` is out of range, models or tokenizers differ, or
            `out` is not empty.
    """
    sources, base_source = [open_weights(path) for path in checkpoints], open_weights(base)
    if len(sources) < 2:
        raise ValueError(
            f"{checkpoints[0]}: TIES merges the changes of several checkpoints; name two or more"
        )
    if not 0 < density <= 1:
        raise ValueError(f"--density is {density:g}: a share of the changes must be above 0 and at most 1")
    _check_alike([base_source, *sources])
    text = f"the TIES merge, density {density:g}, of {', '.join(map(str, sources))} since {base_source}"
    with new_folder(Path(out)) as folder:
        _write(folder, ties(base_source.read(), _read(sources, ema=False), density), sources, text)
    return Path(out)


def _read(sources: Iterable[WeightSource], ema: bool) -> Iterator[dict[str, Tensor]]:
    for source in tqdm(list(sources), unit="checkpoint", leave=False, disable=None):
        print(source)
        for note in source.notes:
            print(f"  {note}")
        yield source.read_average() if ema else source.read()


def _write(folder: Path, weights: dict[str, Tensor], sources: Sequence[WeightSource], text: str) -> None:
    last = max(sources, key=lambda source: source.info.tokens)
    save_weights(folder, weights, dataclasses.replace(last.info, keep=True, merged=text))
    copy_tokenizer(last.folder, folder)
    if (last.folder / RECIPE_FILE).is_file():
        shutil.copyfile(last.folder / RECIPE_FILE, folder / RECIPE_FILE)


def _check_weights(weights: Sequence[float], num_checkpoints: int) -> None:
    if len(weights) != num_checkpoints:
        raise ValueError(
            f"--weights has {len(weights)} numbers for {num_checkpoints} checkpoints; give one for each"
        )
    if not all(0 < weight < float("inf") for weight in weights):
        raise ValueError(
            f"--weights is {', '.join(f'{w:g}' for w in weights)}: each must be a number above 0"
        )


def _check_alike(sources: Sequence[WeightSource]) -> None:
    """Check that architecture, tokenizer, RoPE thetas and objective are equal, so that weights are comparable.

    Raises:
        ValueError: They differ.
    """
    first = sources[0]
    for other in sources[1:]:
        differing = changed_settings(architecture_settings(first.model), architecture_settings(other.model))
        changes = [f"{key} is {a} and {b}" for key, (a, b) in differing.items()]
        for name in ("global_rope_theta", "local_rope_theta", "tokenizer_fingerprint"):
            value, other_value = getattr(first.info, name), getattr(other.info, name)
            if value != other_value and not _is_unused(name, first.model):
                changes.append(f"{name} is {value} and {other_value}")
        if first.info.objective != other.info.objective:
            changes.append(f"objective is {first.info.objective} and {other.info.objective}")
        if changes:
            raise ValueError(
                f"{first.path} and {other.path} cannot be merged: {', '.join(changes)}; merge checkpoints of one "
                "model, from one phase or from phases with equal settings"
            )


def _is_unused(name: str, model: ModelConfig) -> bool:
    return name.endswith("_rope_theta") and model.positions != "rope"
