"""A Hugging Face ModernBERT or BERT as a checkpoint to start from: the inverse of export.

    OUT/checkpoints/step-00000000.pt, .json   OUT/tokenizer.json   OUT/tokenizer_config.json

It holds weights only, so a recipe whose `init.from` names OUT starts with a fresh clock and optimizer. Before
OUT gets its name, our encoder's logits are compared with Transformers' on the folder that was imported;
`init.from` reads such a folder in the same way, without that comparison.
"""

from pathlib import Path

import transformers
from torch import Tensor

from modernbert_train.checkpoints.checkpoint import save_weights
from modernbert_train.checkpoints.hf.folder import read_info, read_weights
from modernbert_train.config import ModelConfig
from modernbert_train.convert.folders import build_our_model, load_their_model, new_folder
from modernbert_train.convert.parity import check_finite, compare_logits, probe_batches
from modernbert_train.convert.tokenizer_files import copy_tokenizer
from modernbert_train.store.manifest import TokenizerInfo, load_tokenizer_info


def import_folder(hf_folder: str | Path, out: str | Path) -> Path:
    """Write the model in `hf_folder` as a checkpoint in the new folder `out`, and return `out`.

    Reads the layout of answerdotai/ModernBERT-base, in the older and the newer spelling of its config, and that
    of `BertForMaskedLM`.
    FailedCheck: weights that hold NaN, logits that differ. ValueError: files missing, another model type,
    settings our encoder does not have, weights that are missing, left over or of another shape, `out` not
    empty.
    """
    source, out = Path(hf_folder), Path(out)
    with new_folder(out) as folder:
        info = read_info(source)
        state_dict = read_weights(source, info.model)
        check_finite(state_dict, source)
        _check_logits(source, info.model, state_dict, load_tokenizer_info(source))
        save_weights(folder, state_dict, info)
        copy_tokenizer(source, folder)
    return out


def _check_logits(
    source: Path, model: ModelConfig, state_dict: dict[str, Tensor], tokenizer: TokenizerInfo
) -> None:
    ours = build_our_model(model, state_dict, model.global_rope_theta, model.local_rope_theta)
    batches = probe_batches(tokenizer, model.max_position_embeddings, model.local_attention)
    print(f"{source}: logits of Transformers {transformers.__version__} and ours, float32 on the CPU")
    for result in compare_logits(ours, load_their_model(source), batches):
        print(result)
