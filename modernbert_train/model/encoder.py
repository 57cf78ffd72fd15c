"""ModernBERT (Warner et al., 2412.13663) over packed documents, with its masked-language-model head.

The switches of `ModelConfig` turn it into other encoders, BERT of 2018 among them (`yamls/models/bert-base-2018.yaml`).
With ModernBERT's switches, the state dict has the keys and shapes of Transformers' `ModernBertForMaskedLM`.

There is no batch dimension: the T tokens of many documents are concatenated. `cu_seqlens` marks their boundaries (see
`attention`), and positions restart at 0 in each document.
"""

import torch
import torch.nn.functional as F
from torch import nn

from modernbert_train.config import ModelConfig
from modernbert_train.model.backends import backends_by_device
from modernbert_train.model.layers import (
    AttentionInputs,
    Embeddings,
    EncoderLayer,
    PredictionHead,
    build_norm,
)
from modernbert_train.model.rope import RotaryEmbedding
from modernbert_train.objectives import IGNORE_INDEX


class ModernBertModel(nn.Module):
    """The encoder: ids [T] -> hidden states [T, d]."""

    def __init__(self, config: ModelConfig, attention_backend: str) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(EncoderLayer(config, layer) for layer in range(config.num_hidden_layers))
        # With post-norm, the output of the last layer is normed already.
        self.final_norm = build_norm(config) if config.norm_placement == "pre" else nn.Identity()
        self.rotary_emb = _rotary_embedding(config) if config.positions == "rope" else None
        self.causal = False  # see `ModernBertForMaskedLM.set_causal`
        self._backends = backends_by_device(attention_backend)

    def forward(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, cu_seqlens: torch.Tensor, max_seqlen: int
    ) -> torch.Tensor:
        """Return the hidden states [T, d] after the last norm; arguments as for `ModernBertForMaskedLM`."""
        backend = self._backends.get(input_ids.device.type, "torch")
        tables = (None, None) if self.rotary_emb is None else self.rotary_emb(position_ids)
        global_inputs, local_inputs = (
            AttentionInputs(rotary, cu_seqlens, max_seqlen, backend, self.causal) for rotary in tables
        )
        hidden = self.embeddings(input_ids, position_ids)
        for layer in self.layers:
            hidden = layer(hidden, global_inputs if layer.is_global else local_inputs)
        return self.final_norm(hidden)


def _rotary_embedding(config: ModelConfig) -> RotaryEmbedding:
    head_dim = config.hidden_size // config.num_attention_heads
    return RotaryEmbedding(head_dim, config.global_rope_theta, config.local_rope_theta)


class ModernBertForMaskedLM(nn.Module):
    """The encoder with a prediction head and a decoder tied to the token embedding.

    Weights have PyTorch's default initialization until `initialize_weights` or `load_state_dict`.

    Args:
        config: the architecture.
        attention_backend: one of `backends.BACKENDS`.

    Raises:
        ValueError: if the backend cannot run on this machine.
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
        """Compute logits over the vocabulary.

        Args:
            input_ids: [T], token ids of all documents.
            position_ids: [T], position of each token in its document, from 0.
            cu_seqlens: [N + 1] int32, where each of the N documents starts, and T.
            max_seqlen: upper bound of the documents' lengths in tokens.
            target_positions: [M], the tokens for which logits are computed; None: all T.

        Returns:
            Logits [M, vocabulary], or [T, vocabulary] without `target_positions`.
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
        """Compute the summed cross-entropy, in nats, and the number of correct predictions.

        Arguments as for `forward`, and labels [M]: token ids, or `IGNORE_INDEX` for positions that do not count. Both
        results are sums, to be divided by the number of targets in the whole batch (`training.composer_model`).

        Returns:
            Loss and number of correct predictions, both scalars.
        """
        logits = self(input_ids, position_ids, cu_seqlens, max_seqlen, target_positions)
        # In half precision, the sum over the vocabulary would lose the small terms.
        loss = F.cross_entropy(
            logits.to(torch.promote_types(logits.dtype, torch.float32)),
            labels,
            ignore_index=IGNORE_INDEX,
            reduction="sum",
        )
        with torch.no_grad():  # no prediction equals IGNORE_INDEX
            num_correct = (logits.argmax(dim=-1) == labels).sum()
        return loss, num_correct

    def set_rope_theta(self, global_theta: float, local_theta: float) -> None:
        """Set the RoPE thetas of global and local layers without recompilation; without RoPE, do nothing."""
        if self.model.rotary_emb is not None:
            self.model.rotary_emb.set_theta(global_theta, local_theta)

    def set_causal(self, causal: bool) -> None:
        """Set whether a token sees only itself and earlier tokens; a change triggers one recompilation."""
        self.model.causal = causal
