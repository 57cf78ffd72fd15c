"""A checkpoint as a Hugging Face folder, proven before it is there.

    config.json  model.safetensors  tokenizer.json  tokenizer_config.json  README.md

The folder is written under a temporary name beside its place, loaded again with `AutoModelForMaskedLM` and
`AutoTokenizer`, and its logits are compared with those of our own encoder. Only then does it get its name:
whatever goes wrong, nothing is left behind. All of it runs on the CPU, for any checkpoint: step 0, and every
phase with its theta.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoTokenizer

from modernbert_train.checkpoints.checkpoint import checkpoint_path, load_weights, run_folder_of
from modernbert_train.checkpoints.hf.config import to_hf_config, to_hf_weights
from modernbert_train.checkpoints.info import CheckpointInfo
from modernbert_train.config.architecture import TIED_WEIGHT
from modernbert_train.convert.fill_mask import check_texts, fill_masks
from modernbert_train.convert.folders import build_our_model, load_their_model, new_folder
from modernbert_train.convert.model_card import model_card
from modernbert_train.convert.parity import (
    PROBE_TEXT,
    FailedCheck,
    ProbeResult,
    check_finite,
    compare_logits,
    probe_batches,
)
from modernbert_train.convert.tokenizer_files import export_tokenizer, text_ids
from modernbert_train.store.manifest import TokenizerInfo, load_tokenizer_info


def export_checkpoint(run_or_checkpoint: str | Path, out: str | Path, fill: Sequence[str] = ()) -> Path:
    """Write the newest good checkpoint of a run, or the one named, to the new folder `out`; returns `out`.

    Prints how far Transformers' logits are from ours, and the likeliest tokens for each [MASK] of the texts
    in `fill`. FailedCheck: weights that hold NaN, logits or token ids that differ. ValueError: no such
    checkpoint, a model for which Transformers has no class, or that was last trained with objective clm, `out` not
    empty, a text without [MASK].
    """
    out = Path(out)
    with new_folder(out) as folder:
        state_dict, info = load_weights(run_or_checkpoint)
        run = _run_folder(Path(run_or_checkpoint))
        checkpoint = checkpoint_path(run, info.step)
        _refuse_causal(info, checkpoint)
        check_finite(state_dict, checkpoint)
        tokenizer = _tokenizer_of(run, info)
        check_texts(fill, _mask_token(tokenizer))
        write_hf_folder(folder, state_dict, info, tokenizer)
        num_parameters = sum(weight.numel() for name, weight in state_dict.items() if name != TIED_WEIGHT)
        card = model_card(out.name, info, num_parameters, run)
        (folder / "README.md").write_text(card, encoding="utf-8")

        theirs, their_tokenizer = load_their_model(folder), AutoTokenizer.from_pretrained(folder)
        _check_tokenizer(tokenizer, their_tokenizer)
        print(f"{checkpoint}: logits of Transformers {transformers.__version__} and ours, float32 on the CPU")
        for result in _check_logits(state_dict, info, tokenizer, theirs):
            print(result)
        for filled in fill_masks(theirs, their_tokenizer, fill):
            print(filled)
    return out


def write_hf_folder(
    folder: Path, state_dict: dict[str, Tensor], info: CheckpointInfo, tokenizer: TokenizerInfo
) -> None:
    """Write config, weights in float32 and tokenizer files into an existing folder."""
    model = info.model
    config = to_hf_config(model, info.global_rope_theta, info.local_rope_theta, tokenizer)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    weights = {name: weight.float().contiguous() for name, weight in to_hf_weights(state_dict, model).items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    # safetensors writes for the owner's eyes alone.
    shutil.copymode(folder / "config.json", folder / "model.safetensors")
    export_tokenizer(tokenizer, folder, info.context_tokens)


def _refuse_causal(info: CheckpointInfo, checkpoint: Path) -> None:
    if info.is_causal:
        raise ValueError(
            f"{checkpoint}: its phase {info.phase} has objective clm, and no class of Transformers computes this "
            "encoder with causal attention; export a checkpoint of a later phase with objective: mlm, or train one on "
            f"from it with init.from={checkpoint}"
        )


def _run_folder(run_or_checkpoint: Path) -> Path:
    return run_folder_of(run_or_checkpoint) if run_or_checkpoint.suffix == ".pt" else run_or_checkpoint


def _tokenizer_of(run: Path, info: CheckpointInfo) -> TokenizerInfo:
    tokenizer = load_tokenizer_info(run)
    if tokenizer.fingerprint != info.tokenizer_fingerprint:
        raise ValueError(
            f"{run / 'tokenizer.json'} is not the tokenizer the weights were trained with; put that one back"
        )
    return tokenizer


def _mask_token(tokenizer: TokenizerInfo) -> str:
    return Tokenizer.from_file(str(tokenizer.path / "tokenizer.json")).id_to_token(tokenizer.mask_id)


def _check_tokenizer(tokenizer: TokenizerInfo, theirs: Any) -> None:
    """FailedCheck unless the reloaded tokenizer gives the ids that the loader gives while training."""
    for text in (PROBE_TEXT, f"It opens at {theirs.mask_token}."):
        expected, actual = text_ids(tokenizer, text), theirs(text, verbose=False)["input_ids"]
        if expected != actual:
            raise FailedCheck(
                f"{tokenizer.path / 'tokenizer.json'}: AutoTokenizer gives {actual} for {text!r}, training "
                f"gave {expected}; mend tokenizer_config.json beside it"
            )


def _check_logits(
    state_dict: dict[str, Tensor], info: CheckpointInfo, tokenizer: TokenizerInfo, theirs: Any
) -> list[ProbeResult]:
    model = info.model
    ours = build_our_model(model, state_dict, info.global_rope_theta, info.local_rope_theta)
    batches = probe_batches(tokenizer, info.context_tokens, model.local_attention)
    return compare_logits(ours, theirs, batches)
