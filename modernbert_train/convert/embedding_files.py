"""The files that make a Hugging Face folder one of Sentence Transformers: mean pooling, or that of the folder.

    modules.json  sentence_bert_config.json  config_sentence_transformers.json  1_Pooling/config.json

They have the fields of its versions before 6, which version 6 reads as well, and text-embeddings-inference reads alone;
so they also replace those that version 6 has saved. The weights stay as they are, with the masked-LM head.
"""

import json
from pathlib import Path
from typing import Any

from modernbert_train.checkpoints.hf.folder import MODULES_FILE, context_tokens
from modernbert_train.checkpoints.hf.transformers_model import quiet
from modernbert_train.checkpoints.hf.weight_files import read_json
from modernbert_train.checkpoints.source import FailedCheck
from modernbert_train.common.extras import require_extra
from modernbert_train.common.text import one_line
from modernbert_train.convert.parity import MAX_DIFFERENCE
from modernbert_train.store.published_tokenizer import PROBE_TEXTS

_MODEL_FILE = "config_sentence_transformers.json"
# Our field of 1_Pooling/config.json -> the mode of version 6.
_MODES = {
    "cls_token": "cls",
    "mean_tokens": "mean",
    "max_tokens": "max",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "weightedmean_tokens": "weightedmean",
    "lasttoken": "lasttoken",
}


def require_sentence_transformers() -> None:
    """Check that Sentence Transformers is installed.

    Raises:
        ValueError: It is not.
    """
    require_extra("evaluation", "sentence-transformers")


def write_embedding_files(folder: Path) -> str:
    """Write the files into a Hugging Face folder, and check that they do not change its vectors.

    Returns:
        A line for users: how far the vectors are from those that Sentence Transformers computes without the files, by
        mean pooling.

    Raises:
        FailedCheck: The difference is above `MAX_DIFFERENCE`.
        ValueError: Sentence Transformers cannot open the folder, or it has modules that only version 6 knows.
    """
    require_sentence_transformers()
    import sentence_transformers

    model = _open(folder)
    names = _saved_modules(folder) or [type(module).__name__ for module in model]
    if names[:2] != ["Transformer", "Pooling"] or not set(names[2:]) <= {"Normalize"}:
        raise ValueError(
            f"the modules are {', '.join(names)}: no files can be written for others than Transformer, Pooling and "
            "Normalize; leave out --sentence-transformers"
        )
    before = _vectors(model)
    # The transformer is in the folder itself.
    paths = ["", *(f"{at}_{name}" for at, name in enumerate(names) if at)]
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{name}"}
        for at, (name, path) in enumerate(zip(names, paths, strict=True))
    ]
    pooling = model[1]
    chosen = [pooling.pooling_mode] if isinstance(pooling.pooling_mode, str) else list(pooling.pooling_mode)
    contents: dict[str, Any] = {
        MODULES_FILE: modules,
        "sentence_bert_config.json": {
            "max_seq_length": model.max_seq_length or context_tokens(folder),
            "do_lower_case": False,
        },
        f"{paths[1]}/config.json": {
            "word_embedding_dimension": pooling.embedding_dimension,
            **{f"pooling_mode_{field}": mode in chosen for field, mode in _MODES.items()},
            "include_prompt": pooling.include_prompt,
        },
    }
    if not (folder / _MODEL_FILE).exists():
        contents[_MODEL_FILE] = {"prompts": {}, "default_prompt_name": None}
    for path in paths:
        (folder / path).mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    difference = (_vectors(_open(folder)) - before).abs().max().item()
    if not difference <= MAX_DIFFERENCE * max(1.0, before.abs().max().item()):
        raise FailedCheck(
            f"the vectors of Sentence Transformers differ by {difference:.1e} with the files and without them; the "
            f"limit is {MAX_DIFFERENCE:.0e} of the largest number"
        )
    return (
        f"{MODULES_FILE}: vectors of Sentence Transformers {sentence_transformers.__version__}, by "
        f"{' and '.join(chosen)} pooling: max |difference| {difference:.1e}"
    )


def _saved_modules(folder: Path) -> list[str]:
    """Return the classes in modules.json, of which `SentenceTransformer` leaves out some of a `MultiVectorEncoder`."""
    content = read_json(folder / MODULES_FILE) if (folder / MODULES_FILE).exists() else []
    return [str(module["type"]).rpartition(".")[2] for module in content]


def _open(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    with quiet():
        try:
            return SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        except Exception as error:  # whatever may be wrong with files that others wrote
            raise ValueError(
                f"{folder}: Sentence Transformers cannot open it: {one_line(error):.500}"
            ) from error


def _vectors(model: Any) -> Any:
    return model.encode(list(PROBE_TEXTS), convert_to_tensor=True, show_progress_bar=False)
