"""Export a checkpoint as a Hugging Face folder, and prove it equal before it appears.

    config.json  model.safetensors  tokenizer.json  tokenizer_config.json  README.md
    onnx/model.onnx             with --onnx
    modules.json  1_Pooling/ ...    with --sentence-transformers

The folder is written under a temporary name, loaded again with `AutoModelForMaskedLM` and `AutoTokenizer`, and its
logits are compared with those of our encoder. Only then is it renamed; after any error nothing is left behind.
Everything runs on the CPU and works for any checkpoint: step 0, and every phase with its RoPE theta.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoTokenizer

from modernbert_train.checkpoints.hf.folder import MODULES_FILE, copy_model, is_hf_folder
from modernbert_train.checkpoints.hf.vocabulary import without_padding
from modernbert_train.checkpoints.hf.writing import write_hf_folder
from modernbert_train.checkpoints.info import CheckpointInfo
from modernbert_train.checkpoints.source import FailedCheck, build_encoder, open_weights, refuse_causal
from modernbert_train.common.files import new_folder
from modernbert_train.convert.embedding_files import require_sentence_transformers, write_embedding_files
from modernbert_train.convert.fill_mask import check_texts, fill_masks
from modernbert_train.convert.folders import load_transformers_model
from modernbert_train.convert.model_card import model_card
from modernbert_train.convert.onnx_graph import require_onnx, write_onnx
from modernbert_train.convert.parity import ProbeResult, compare_logits, probe_batches
from modernbert_train.store.published_tokenizer import PROBE_TEXTS, check_tokenizer, encoded, special_tokens
from modernbert_train.store.tokenizer import TokenizerInfo, tokenizer_errors


def export_checkpoint(
    model: str | Path,
    out: str | Path,
    fill: Sequence[str] = (),
    onnx: bool = False,
    sentence_transformers: bool = False,
) -> Path:
    """Write a checkpoint as a Hugging Face folder.

    Prints how far Transformers' logits are from ours, and the likeliest tokens for each [MASK] in `fill`.

    Args:
        model: A run folder (its newest good checkpoint is exported), a `.pt` file, or a Hugging Face folder: with
            `onnx` or `sentence_transformers`, its files are copied as they are, whatever the architecture.
        out: A folder that is empty or does not exist.
        fill: Texts with [MASK].
        onnx: Add the graph for ONNX Runtime: see `onnx_graph`.
        sentence_transformers: Add the files of Sentence Transformers: see `embedding_files`. The graph then gives last
            hidden states, not logits.

    Returns:
        `out`.

    Raises:
        FailedCheck: A weight holds NaN or infinity, or logits, vectors or token ids differ.
        ValueError: No such checkpoint, a model for which Transformers has no class or that was last trained with
            objective clm, `out` is not empty, a text without [MASK], a package of an extra is not installed.
    """
    if onnx:
        require_onnx()
    if sentence_transformers:
        require_sentence_transformers()
    out = Path(out)
    with new_folder(out) as folder:
        if (onnx or sentence_transformers) and is_hf_folder(Path(model)):
            if fill:
                raise ValueError(f"--fill: {model} is copied as it is; leave out --fill")
            copy_model(Path(model), folder)
        else:
            _write_checkpoint(model, folder, out.name, fill)
        if sentence_transformers:
            print(write_embedding_files(folder))
        if onnx:
            print("\n".join(write_onnx(folder, encoder_only=(folder / MODULES_FILE).exists())))
    return out


def _write_checkpoint(model: str | Path, folder: Path, name: str, fill: Sequence[str]) -> None:
    source = open_weights(model)
    refuse_causal(source)
    tokenizer = source.tokenizer()
    check_tokenizer(tokenizer, is_tokenized=True)
    check_texts(fill, _mask_token(tokenizer))
    info, weights = without_padding(source.info, source.read())
    write_hf_folder(folder, weights, info, tokenizer)
    (folder / "README.md").write_text(model_card(name, info, source.folder), encoding="utf-8")

    exported = load_transformers_model(folder)
    with tokenizer_errors(f"{tokenizer.path}: AutoTokenizer cannot open what was exported of its tokenizer"):
        hf_tokenizer = AutoTokenizer.from_pretrained(folder)
    _check_tokenizer(folder, hf_tokenizer)
    print(f"{source.path}: logits of Transformers {transformers.__version__} and ours, float32 on the CPU")
    for result in _check_logits(info, weights, tokenizer, exported):
        print(result)
    for filled in fill_masks(exported, hf_tokenizer, fill):
        print(filled)


def _mask_token(tokenizer: TokenizerInfo) -> str:
    backend = Tokenizer.from_file(str(tokenizer.path / "tokenizer.json"))
    return special_tokens(backend, tokenizer)["mask"][0]


def _check_tokenizer(folder: Path, hf_tokenizer: Any) -> None:
    """Check that `AutoTokenizer` gives the ids of tokenizer.json, which `check_tokenizer` compares with training.

    Raises:
        FailedCheck: It does not.
    """
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    special = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
    if others := set(hf_tokenizer.all_special_tokens) - special:
        raise FailedCheck(
            f"AutoTokenizer of Transformers {transformers.__version__} takes {', '.join(map(repr, others))} for "
            "special tokens, which are text in the exported tokenizer.json; report this as a defect, with the tokenizer"
        )
    for text in (*PROBE_TEXTS, f"It opens at {hf_tokenizer.mask_token}."):
        expected = encoded(backend, text)
        if expected is None:
            continue
        actual = hf_tokenizer(text, verbose=False)["input_ids"]
        if expected != actual:
            raise FailedCheck(
                f"AutoTokenizer of Transformers {transformers.__version__} gives {actual} for {text!r}, the exported "
                f"tokenizer.json gives {expected}; report this as a defect, with the tokenizer"
            )


def _check_logits(
    info: CheckpointInfo, weights: dict[str, Tensor], tokenizer: TokenizerInfo, model: Any
) -> list[ProbeResult]:
    batches = probe_batches(tokenizer, info.context_tokens, info.model.local_attention)
    return compare_logits(build_encoder(info, weights), model, batches)
