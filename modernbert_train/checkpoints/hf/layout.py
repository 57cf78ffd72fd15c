"""The names of published weights: which of them make up our model, which are missing, and which are left out.

The same encoder is published under several names: with or without a prefix such as `bert.` (a bare `AutoModel`), with a
masked-LM head, with another head, with both or with none. What belongs to the encoder or to the masked-LM head must fit
exactly, because it changes the logits; other heads and buffers are left out. A masked-LM head that is missing as a
whole can be made new.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from modernbert_train.common.text import without_breaks
from modernbert_train.config.architecture import DECODER_BIAS

# Endings of the names of buffers that Transformers 4 stored, and computes anew.
_BUFFERS = ("position_ids", "token_type_ids", "inv_freq")
# TensorFlow's names for the parts of a norm, with which the first BERTs were published.
_OLD_NORMS = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


@dataclass(frozen=True)
class Layout:
    """The names of an architecture's weights, without its prefix."""

    # In front of the encoder's names, except in a bare model.
    prefix: str
    # Starts of the names of the encoder and of the masked-LM head.
    encoder: tuple[str, ...]
    head: tuple[str, ...]
    # Our weight -> published weights, which are joined along the first dimension. The tied decoder is not in it.
    parts: dict[str, tuple[str, ...]]
    # Published weight -> its shape; more than those in `parts`, if some are added to others.
    shapes: dict[str, tuple[int, ...]]
    # Second name of a published weight -> its first.
    twins: dict[str, str]


@dataclass(frozen=True)
class Arrangement:
    """The weights of one folder, sorted."""

    # Name in the layout -> name in the files.
    names: dict[str, str]
    # Our weights of the masked-LM head that the folder lacks.
    new: tuple[str, ...]
    # Names in the files of the weights that are no part of our model.
    left_out: tuple[str, ...]


def arrange(names: Iterable[str], layout: Layout, where: Path) -> Arrangement:
    """Sort the weights of a folder.

    Args:
        names: As they stand in its files.
        layout: The names that its config.json implies.
        where: The file or folder, for error messages.

    Returns:
        The weights, sorted.

    Raises:
        ValueError: Weights of the encoder are missing, or the encoder or its masked-LM head has unknown ones.
    """
    found: dict[str, str] = {}
    for name in names:
        bare = _bare(name, layout)
        if bare in found:
            raise ValueError(
                f"{where}: holds {name} and {found[bare]}, which are one weight; delete one of them"
            )
        found[bare] = name
    for twin, first in layout.twins.items():
        if first not in found and twin in found:
            found[first] = found.pop(twin)
    new = tuple(_new(found, layout))
    made = {part for name in new for part in layout.parts[name]}
    missing = [part for part in layout.shapes if part not in found and part not in made]
    others = [
        bare
        for bare in found
        if bare not in layout.shapes and bare not in layout.twins and not bare.endswith(_BUFFERS)
    ]
    unknown = [bare for bare in others if bare.startswith((*layout.encoder, *layout.head))]
    _refuse(missing, [found[bare] for bare in unknown], _used_prefix(found, layout), layout, where)
    needed = (*layout.shapes, *layout.twins)
    return Arrangement(
        names={bare: found[bare] for bare in needed if bare in found},
        new=new,
        left_out=tuple(found[bare] for bare in others),
    )


def modules(names: Iterable[str]) -> str:
    """Return the modules of weights as a text, such as `head.dense, head.norm`."""
    short = list(dict.fromkeys(name.rpartition(".")[0] or name for name in names))
    return ", ".join(short[:5]) + (f" and {len(short) - 5} more" if len(short) > 5 else "")


def _bare(name: str, layout: Layout) -> str:
    name = name.removeprefix(layout.prefix)
    for old, new in _OLD_NORMS.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _new(found: dict[str, str], layout: Layout) -> list[str]:
    """Return our weights of a head that is missing as a whole, and the decoder's bias if that is missing."""
    head = [name for name in layout.parts if name.startswith("head.")]
    is_missing = all(part not in found for name in head for part in layout.parts[name])
    bias = [DECODER_BIAS] if layout.parts[DECODER_BIAS][0] not in found else []
    return [*(head if is_missing else []), *bias]


def _used_prefix(found: dict[str, str], layout: Layout) -> str:
    is_used = any(name.startswith(layout.prefix) for name in found.values())
    return layout.prefix if is_used else ""


def _refuse(missing: list[str], unknown: list[str], prefix: str, layout: Layout, where: Path) -> None:
    problems = [f"{prefix if name.startswith(layout.encoder) else ''}{name} is missing" for name in missing]
    problems += [f"{name} is unknown" for name in unknown]
    if problems:
        raise ValueError(f"{where}: {misfit(problems)}")


def misfit(problems: list[str]) -> str:
    """Return the message about weights that do not fit config.json."""
    more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
    return without_breaks(
        f"these weights do not fit config.json: {'; '.join(problems[:5])}{more}; download config.json and the weights "
        "from the same place"
    )
