"""Write a Hugging Face folder: what Transformers, sentence-transformers and other programs open.

config.json  model.safetensors  tokenizer.json  tokenizer_config.json
"""

import json
import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from modernbert_train.checkpoints.hf.config import CONFIG_FILE, to_hf_config, to_hf_weights
from modernbert_train.checkpoints.hf.tokenizer_files import export_tokenizer
from modernbert_train.checkpoints.info import CheckpointInfo
from modernbert_train.common.text import one_line
from modernbert_train.store.tokenizer import TokenizerInfo


def write_hf_folder(
    folder: Path, weights: dict[str, Tensor], info: CheckpointInfo, tokenizer: TokenizerInfo
) -> None:
    """Write config, weights in float32 and tokenizer files into an existing folder."""
    config = to_hf_config(info.model, info.global_rope_theta, info.local_rope_theta, tokenizer)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    hf_weights = to_hf_weights(weights, info.model)
    hf_weights = {name: weight.float().contiguous() for name, weight in hf_weights.items()}
    try:
        save_file(hf_weights, folder / "model.safetensors", metadata={"format": "pt"})
    except SafetensorError as error:
        raise ValueError(
            f"{folder}: the weights cannot be written ({one_line(error)}); free disk space"
        ) from error
    # safetensors creates files that only their owner can read.
    shutil.copymode(folder / CONFIG_FILE, folder / "model.safetensors")
    export_tokenizer(tokenizer, folder, info.context_tokens)
