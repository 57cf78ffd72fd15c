"""The files that make a Hugging Face folder one of Sentence Transformers: mean pooling over its tokens.

    modules.json  sentence_bert_config.json  config_sentence_transformers.json  1_Pooling/config.json

They have the fields of its versions before 6, which version 6 reads as well, and text-embeddings-inference reads alone.
The weights stay as they are, with the masked-LM head.
"""

import json
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

from modernbert_train.checkpoints.hf.folder import MODULES_FILE, context_tokens
from modernbert_train.checkpoints.hf.transformers_model import load_model, quiet
from modernbert_train.checkpoints.source import FailedCheck
from modernbert_train.common.extras import require_extra
from modernbert_train.convert.parity import MAX_DIFFERENCE
from modernbert_train.store.published_tokenizer import PROBE_TEXTS

_POOLING = "1_Pooling"
_MODES = (
    "cls_token",
    "mean_tokens",
    "max_tokens",
    "mean_sqrt_len_tokens",
    "weightedmean_tokens",
    "lasttoken",
)


def require_sentence_transformers() -> None:
    """Check that Sentence Transformers is installed.

    Raises:
        ValueError: It is not.
    """
    require_extra("evaluation", "sentence-transformers")


def write_embedding_files(folder: Path) -> str:
    """Write the files into a Hugging Face folder, and open it with Sentence Transformers.

    Returns:
        A line for users: how far its vectors are from the means of Transformers' last hidden states.

    Raises:
        FailedCheck: The difference is above `MAX_DIFFERENCE`.
        ValueError: The folder has such files already, or Transformers cannot load it.
    """
    require_sentence_transformers()
    import sentence_transformers

    if (folder / MODULES_FILE).exists():
        raise ValueError(
            "the folder is one of Sentence Transformers already; leave out --sentence-transformers"
        )
    model, _ = load_model(folder, AutoModel)
    longest = context_tokens(folder)
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": _POOLING, "type": "sentence_transformers.models.Pooling"},
    ]
    pooling = {f"pooling_mode_{mode}": mode == "mean_tokens" for mode in _MODES}
    contents = {
        MODULES_FILE: modules,
        "sentence_bert_config.json": {"max_seq_length": longest, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": {}, "default_prompt_name": None},
        f"{_POOLING}/config.json": {
            "word_embedding_dimension": model.config.hidden_size,
            **pooling,
            "include_prompt": True,
        },
    }
    (folder / _POOLING).mkdir()
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    with quiet():
        opened = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    vectors = opened.encode(list(PROBE_TEXTS), convert_to_tensor=True, show_progress_bar=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    means = []
    for text in PROBE_TEXTS:
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=longest)
        with torch.no_grad():
            means.append(model(**inputs).last_hidden_state[0].mean(dim=0))
    expected = torch.stack(means)
    difference = (vectors - expected).abs().max().item()
    if not difference <= MAX_DIFFERENCE * max(1.0, expected.abs().max().item()):
        raise FailedCheck(
            f"the vectors of Sentence Transformers differ from the means of the hidden states by {difference:.1e}; "
            f"the limit is {MAX_DIFFERENCE:.0e} of the largest number"
        )
    return (
        f"modules.json: vectors of Sentence Transformers {sentence_transformers.__version__} and means of the last "
        f"hidden states: max |difference| {difference:.1e}"
    )
