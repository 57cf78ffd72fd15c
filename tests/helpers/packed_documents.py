"""Packed documents and small models for tests of the model."""

from dataclasses import dataclass
from typing import Any

import torch

from modernbert_train.config import ModelConfig
from modernbert_train.model import ModernBertForMaskedLM, initialize_weights

# Lengths around the edges of a block of 64 tokens and of a window of 64 to either side.
RAGGED = [1, 2, 63, 64, 65, 66, 127, 128, 129, 130]

SMALL = ModelConfig(
    vocab_size=512, hidden_size=128, num_hidden_layers=4, num_attention_heads=2, intermediate_size=192
)

# The switches of BERT of 2018.
BERT = ModelConfig(
    vocab_size=512, hidden_size=128, num_hidden_layers=3, num_attention_heads=2, intermediate_size=192,
    norm_placement="post", mlp="gelu", positions="learned", bias=True, global_attn_every_n_layers=1,
    norm_eps=1e-12, max_position_embeddings=512, embedding_dropout=0.1, mlp_out_dropout=0.1,
)  # fmt: skip


@dataclass(frozen=True)
class Packed:
    """Documents, and the model's inputs for them."""

    documents: list[torch.Tensor]

    def inputs(self) -> dict[str, Any]:
        lengths = [len(document) for document in self.documents]
        return {
            "input_ids": torch.cat(self.documents),
            "position_ids": torch.cat([torch.arange(length) for length in lengths]),
            "cu_seqlens": cu_seqlens(lengths),
            "max_seqlen": max(lengths),
        }


def random_documents(lengths: list[int], vocab_size: int, seed: int = 0) -> Packed:
    generator = torch.Generator().manual_seed(seed)
    return Packed([torch.randint(1, vocab_size, (length,), generator=generator) for length in lengths])


def cu_seqlens(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def perturbed_model(config: ModelConfig, seed: int = 0) -> ModernBertForMaskedLM:
    """Build a model whose weights, norms and biases included, all affect the output: far from their initial values."""
    model = ModernBertForMaskedLM(config, attention_backend="torch").eval()
    generator = torch.Generator().manual_seed(seed)
    initialize_weights(model, config, generator)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
    return model


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the norm of the difference divided by the norm of the expected value."""
    return ((actual.double() - expected.double()).norm() / expected.double().norm()).item()
