"""The facts about a checkpoint that are stored beside its weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from modernbert_train.common.files import json_sha256
from modernbert_train.config import ModelConfig, check_model
from modernbert_train.config.fields import type_text
from modernbert_train.config.quantities import check_at_least_one, check_not_negative, check_positive
from modernbert_train.config.schema import ObjectiveName
from modernbert_train.objectives import OBJECTIVES

_T = TypeVar("_T")
# Of all other fields of the JSON file.
_HASH = "json_sha256"
_REMEDY = "restore it from a copy, or use another checkpoint"


@dataclass(frozen=True)
class CheckpointInfo:
    """The content of `step-*.json`: the position in the run, and everything needed to rebuild the model."""

    step: int
    tokens: int
    phase: str
    phase_step: int
    context_tokens: int
    global_rope_theta: float
    local_rope_theta: float
    model: ModelConfig
    tokenizer_fingerprint: str
    objective: ObjectiveName = "mlm"
    # None for imported weights.
    total_tokens: int | None = None
    # Whether pruning keeps the checkpoint, as it does at the end of each phase.
    keep: bool = False
    # Imported or averaged weights come without optimizer state: a run can start from them, but not resume.
    weights_only: bool = False
    # The sources and method of averaged weights.
    merged: str | None = None
    # Id of the run that saved it; None in older files, and for imported or averaged weights.
    run: str | None = None
    # Size and hash of the `.pt` file; `finish_checkpoint` fills them in.
    bytes: int = 0
    sha256: str = ""

    @property
    def is_causal(self) -> bool:
        """Whether the weights were last trained with causal attention."""
        return OBJECTIVES[self.objective].causal

    def to_json(self) -> str:
        """Return the text of the JSON file."""
        content = dataclasses.asdict(self)
        return json.dumps(content | {_HASH: json_sha256(content)}, indent=1) + "\n"


def info_file(checkpoint: Path) -> Path:
    """Return the path of the JSON file that belongs to a `.pt` file."""
    return checkpoint.with_suffix(".json")


def read_info(checkpoint: Path) -> CheckpointInfo:
    """Read the JSON file beside a checkpoint.

    Returns:
        Its content.

    Raises:
        ValueError: The file is missing or unreadable, or a field is missing or has the wrong type.
    """
    file = info_file(checkpoint)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{checkpoint}: {file.name} is missing, so the checkpoint cannot be verified; restore both files from "
            "a copy, or use another checkpoint"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not readable as JSON ({error}); {_REMEDY}") from None
    content = _section(content, f"{file}:")
    expected = content.pop(_HASH, None)
    # Versions that did not write the id of the run wrote no hash either.
    if (expected is not None or "run" in content) and expected != json_sha256(content):
        raise ValueError(f"{file}: damaged: its content is not what was written; {_REMEDY}")
    model = _section(content.get("model", {}), f"{file}: model")
    if unknown := model.keys() - get_type_hints(ModelConfig):
        raise ValueError(
            f"{file}: this version does not know {', '.join(f'model.{name}' for name in sorted(unknown))}; use the "
            "version of modernbert_train that wrote the checkpoint, or a later one"
        )
    info = _build(
        CheckpointInfo, content | {"model": _build(ModelConfig, model, f"{file}: model.")}, f"{file}: "
    )
    for problem in (*check_model(info.model), *_range_problems(info)):
        raise ValueError(f"{file}: {problem}; {_REMEDY}")
    return info


def _range_problems(info: CheckpointInfo) -> Iterator[str]:
    for name in ("step", "tokens", "phase_step"):
        yield from check_not_negative(name, getattr(info, name))
    yield from check_at_least_one("", {"context_tokens": info.context_tokens})
    thetas = {"global_rope_theta": info.global_rope_theta, "local_rope_theta": info.local_rope_theta}
    yield from check_positive("", thetas)


def _section(content: object, where: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{where} is {content!r}, expected a JSON object; {_REMEDY}")
    return content


def _build(kind: type[_T], content: dict[str, Any], where: str) -> _T:
    """Build a dataclass from the fields it knows. Fields with a default may be missing: older files lack some.

    Returns:
        The dataclass.

    Raises:
        ValueError: A field is missing or has the wrong type.
    """
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name not in content:
            if field.default is dataclasses.MISSING:
                raise ValueError(f"{where}{field.name} is missing; {_REMEDY}")
        elif not _fits(content[field.name], hints[field.name]):
            expected = type_text(hints[field.name])
            raise ValueError(
                f"{where}{field.name} is {content[field.name]!r}, expected {expected}; {_REMEDY}"
            )
    return kind(**{name: value for name, value in content.items() if name in hints})


def _fits(value: object, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    kinds = get_args(hint) or (hint,)
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, (*kinds, int) if float in kinds else kinds)
