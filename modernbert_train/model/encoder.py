"""ModernBERT (Warner et al., 2412.13663) over packed documents, with its masked-language-model head.

The switches of `ModelConfig` make other encoders of it, BERT of 2018 among them
(`yamls/models/bert-base-2018.yaml`). With ModernBERT's, keys and shapes of the state dict are those of
Transformers' `ModernBertForMaskedLM`. There is no batch dimension: T tokens of many documents end to end,
told apart by `cu_seqlens` (see `attention`) and by positions, which start again at 0.
"""

import torch
import torch.nn.functional as F
from torch import nn

from modernbert_train.config import ModelConfig
from modernbert_train.model.backends import backends_by_device
from modernbert_train.model.layers import Embeddings, EncoderLayer, PredictionHead, build_norm
from modernbert_train.model.rope import RotaryEmbedding

IGNORE_INDEX = -100  # of a position that counts neither for the loss nor for the accuracy


class ModernBertModel(nn.Module):
    """The encoder: ids [T] -> hidden states [T, d]."""

    def __init__(self, config: ModelConfig, attention_backend: str) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(EncoderLayer(config, layer) for layer in range(config.num_hidden_layers))
        # A norm that comes last in every layer leaves nothing to be normed.
        self.final_norm = build_norm(config) if config.norm_placement == "pre" else nn.Identity()
        self.rotary_emb = _rotary_embedding(config) if config.positions == "rope" else None
        self._backends = backends_by_device(attention_backend)
        self.causal = False  # no token sees a later one: for next-token prediction, see `set_causal`

    def forward(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, cu_seqlens: torch.Tensor, max_seqlen: int
    ) -> torch.Tensor:
        """Hidden states after the last norm; arguments as for `ModernBertForMaskedLM`."""
        backend = self._backends.get(input_ids.device.type, "torch")
        global_rotary, local_rotary = (
            (None, None) if self.rotary_emb is None else self.rotary_emb(position_ids)
        )
        hidden = self.embeddings(input_ids, position_ids)
        for layer in self.layers:
            rotary = global_rotary if layer.is_global else local_rotary
            hidden = layer(hidden, rotary, cu_seqlens, max_seqlen, backend, self.causal)
        return self.final_norm(hidden)


def _rotary_embedding(config: ModelConfig) -> RotaryEmbedding:
    head_dim = config.hidden_size // config.num_attention_heads
    return RotaryEmbedding(head_dim, config.global_rope_theta, config.local_rope_theta)


class ModernBertForMaskedLM(nn.Module):
    """The encoder with a decoder tied to the token embedding.

    Weights are PyTorch's defaults until `initialize_weights` or `load_state_dict`. `attention_backend` is one
    of `attention.BACKENDS`; ValueError if it cannot run here.
    """

    def __init__(self, config: ModelConfig, attention_backend: str = "auto") -> None:
        super().__init__()
        self.model = ModernBertModel(config, attention_backend)
        self.head = PredictionHead(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size, bias=True)
        self.decoder.weight = self.model.embeddings.tok_embeddings.weight

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        cu_seqlens: torch.Tensor,
        max_seqlen: int,
        target_positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits [M, vocabulary] at `target_positions` [M] of the T tokens, or [T, vocabulary] at all.

        `input_ids`, `position_ids` [T], `cu_seqlens` [N + 1] int32; no document is longer than `max_seqlen`.
        """
        hidden = self.model(input_ids, position_ids, cu_seqlens, max_seqlen)
        if target_positions is not None:
            hidden = hidden.index_select(0, target_positions)
        return self.decoder(self.head(hidden))

    def loss_and_correct(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        cu_seqlens: torch.Tensor,
        max_seqlen: int,
        target_positions: torch.Tensor,
        labels: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Summed cross-entropy (nats) and number of correct predictions, where labels [M] are not -100.

        Sums, not means: what they are divided by is counted over the whole batch, see `training.mlm`.
        """
        logits = self(input_ids, position_ids, cu_seqlens, max_seqlen, target_positions)
        # In half precision the sum over the vocabulary would lose the small terms.
        loss = F.cross_entropy(
            logits.to(torch.promote_types(logits.dtype, torch.float32)),
            labels,
            ignore_index=IGNORE_INDEX,
            reduction="sum",
        )
        with torch.no_grad():  # no prediction equals an ignored label
            num_correct = (logits.argmax(dim=-1) == labels).sum()
        return loss, num_correct

    def set_rope_theta(self, global_theta: float, local_theta: float) -> None:
        """Change the rotary thetas of global and local layers, as a phase does; nothing is compiled anew.

        Every phase has thetas; a model whose positions are not rotated has no use for them.
        """
        if self.model.rotary_emb is not None:
            self.model.rotary_emb.set_theta(global_theta, local_theta)

    def set_causal(self, causal: bool) -> None:
        """Whether tokens see what comes before them only, as a phase's objective asks; a change compiles once anew.

        No weight depends on it: the same ones go on under the other attention.
        """
        self.model.causal = causal
