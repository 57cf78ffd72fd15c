"""Import a published ModernBERT, BERT or RoBERTa as a checkpoint: the inverse of export.

    OUT/checkpoints/step-00000000.pt, .json   OUT/tokenizer.json   OUT/tokenizer_config.json

The checkpoint holds weights only, so a recipe whose `init.from` names OUT starts with a fresh schedule and optimizer.
Before OUT gets its name, our encoder's logits are compared with Transformers'; if the folder has no masked-LM head, the
last hidden states. `init.from` also reads a Hugging Face folder directly, without that comparison.
"""

from pathlib import Path

import transformers
from torch import Tensor

from modernbert_train.checkpoints.checkpoint import save_weights
from modernbert_train.checkpoints.hf.folder import lacks_head
from modernbert_train.checkpoints.hf.transformers_model import HiddenStates, load_masked_lm
from modernbert_train.checkpoints.hf.vocabulary import without_padding
from modernbert_train.checkpoints.source import WeightSource, build_encoder, open_hf_weights
from modernbert_train.common.files import new_folder
from modernbert_train.convert.parity import compare_logits, probe_batches
from modernbert_train.store.tokenizer import copy_tokenizer

# The longest document of the comparison; attention on a CPU takes the square of it.
_LONGEST_CONTEXT = 8_192


def import_folder(hf_folder: str | Path, out: str | Path) -> Path:
    """Write the model of a Hugging Face folder as a checkpoint in the new folder `out`.

    Prints what is not taken over as it is, and how far Transformers' logits are from ours.

    Args:
        hf_folder: A folder of a ModernBERT, BERT or RoBERTa as it is published: see docs/initialization.md.
        out: A folder that is empty or does not exist.

    Returns:
        `out`.

    Raises:
        FailedCheck: A weight holds NaN or infinity, or the logits differ.
        ValueError: Files are missing or damaged, the model type or a setting is not supported, weights of the encoder
            are missing, unknown or of another shape, or `out` is not empty.
    """
    with new_folder(Path(out)) as folder:
        source = open_hf_weights(Path(hf_folder))
        for note in source.notes:
            print(note)
        weights = source.read()
        _check_logits(source, weights)
        save_weights(folder, weights, source.info)
        copy_tokenizer(source.folder, folder)
    return Path(out)


def _check_logits(source: WeightSource, weights: dict[str, Tensor]) -> None:
    model, headless = source.model, lacks_head(source.path)
    longest = min(model.max_position_embeddings, _LONGEST_CONTEXT)
    batches = probe_batches(source.tokenizer(), longest, model.local_attention)
    ours, (theirs, _) = build_encoder(*without_padding(source.info, weights)), load_masked_lm(source.path)
    compared = "last hidden states" if headless else "logits"
    print(f"{source}: {compared} of Transformers {transformers.__version__} and ours, float32 on the CPU")
    # Their new head has other random numbers than ours.
    results = (
        compare_logits(ours.model, HiddenStates(theirs), batches)
        if headless
        else compare_logits(ours, theirs, batches)
    )
    for result in results:
        print(result)
