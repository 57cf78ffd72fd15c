"""A tiny ModernBERT with a byte-level tokenizer: as a run, and as an exported folder."""

import dataclasses
import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from modernbert_train.checkpoints.checkpoint import save_weights
from modernbert_train.config import ModelConfig
from modernbert_train.convert.export import export_checkpoint
from modernbert_train.model import ModernBertForMaskedLM
from modernbert_train.store.manifest import load_tokenizer_info
from tests.helpers.weights import make_info

SPECIALS = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")


def write_tokenizer(folder: Path, with_template: bool = True) -> None:
    """A byte-level tokenizer: 256 bytes and five specials, 261 ids."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIALS])
    if with_template:
        ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "mask_token": "[MASK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


TINY = ModelConfig(
    vocab_size=320,
    hidden_size=32,
    num_hidden_layers=4,
    num_attention_heads=2,
    intermediate_size=48,
    local_attention=16,
)


def random_weights(config: ModelConfig) -> dict[str, torch.Tensor]:
    """Weights so large that a wrong theta or window moves the logits by far more than 1e-4."""
    generator = torch.Generator().manual_seed(0)
    model = ModernBertForMaskedLM(config, attention_backend="torch")
    state_dict = {}
    for name, weight in model.state_dict().items():
        noise = torch.randn(weight.shape, generator=generator)
        state_dict[name] = 1 + 0.2 * noise if "norm" in name else 0.2 * noise
    state_dict["decoder.weight"] = state_dict["model.embeddings.tok_embeddings.weight"]
    return state_dict


def write_checkpoint_of(
    run: Path, state_dict: dict[str, torch.Tensor], config: ModelConfig = TINY, **fields: object
) -> Path:
    """A run folder with a tokenizer and one checkpoint, of a first phase unless told otherwise."""
    write_tokenizer(run)
    info = make_info(model=config, tokenizer_fingerprint=load_tokenizer_info(run).fingerprint, **fields)
    return save_weights(run, state_dict, info)


def write_tiny_export(folder: Path, context_tokens: int = 256) -> Path:
    """Export a ModernBERT of 2 layers (261 ids) into the new folder `folder / "exported"`, and return that."""
    config = dataclasses.replace(TINY, num_hidden_layers=2, vocab_size=261)
    write_checkpoint_of(folder / "run", random_weights(config), config, context_tokens=context_tokens)
    return export_checkpoint(folder / "run", folder / "exported")
