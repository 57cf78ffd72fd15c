"""Import a Hugging Face ModernBERT or BERT as a checkpoint: the inverse of export.

    OUT/checkpoints/step-00000000.pt, .json   OUT/tokenizer.json   OUT/tokenizer_config.json

The checkpoint holds weights only, so a recipe whose `init.from` names OUT starts with a fresh schedule and optimizer.
Before OUT gets its name, our encoder's logits are compared with Transformers'. `init.from` also reads a Hugging Face
folder directly, without that comparison.
"""

from pathlib import Path

import transformers
from torch import Tensor

from modernbert_train.checkpoints.checkpoint import save_weights
from modernbert_train.checkpoints.hf.folder import read_hf_info
from modernbert_train.checkpoints.source import WeightSource, build_encoder
from modernbert_train.convert.folders import load_transformers_model, new_folder
from modernbert_train.convert.parity import compare_logits, probe_batches
from modernbert_train.store.tokenizer import copy_tokenizer


def import_folder(hf_folder: str | Path, out: str | Path) -> Path:
    """Write the model of a Hugging Face folder as a checkpoint in the new folder `out`.

    Args:
        hf_folder: A folder with the layout of answerdotai/ModernBERT-base, with the older or the newer fields of its
            config, or of a `BertForMaskedLM`.
        out: A folder that is empty or does not exist.

    Returns:
        `out`.

    Raises:
        FailedCheck: A weight holds NaN or infinity, or the logits differ.
        ValueError: Files are missing, the model type or a setting is not supported, weights are missing, unknown or
            of another shape, or `out` is not empty.
    """
    hf_folder, out = Path(hf_folder), Path(out)
    with new_folder(out) as folder:
        source = WeightSource(hf_folder, read_hf_info(hf_folder))
        weights = source.read()
        _check_logits(source, weights)
        save_weights(folder, weights, source.info)
        copy_tokenizer(hf_folder, folder)
    return out


def _check_logits(source: WeightSource, weights: dict[str, Tensor]) -> None:
    model = source.model
    batches = probe_batches(source.tokenizer(), model.max_position_embeddings, model.local_attention)
    print(f"{source}: logits of Transformers {transformers.__version__} and ours, float32 on the CPU")
    encoder = build_encoder(source.info, weights)
    for result in compare_logits(encoder, load_transformers_model(source.path), batches):
        print(result)
