"""Speed of this machine's GPU."""

import pytest

from modernbert_train.config import ModelConfig
from modernbert_train.recipe.speed import measure_gpu_tokens_per_s


@pytest.mark.gpu
def test_a_gpu_is_measured():
    small = measure_gpu_tokens_per_s(
        ModelConfig(hidden_size=256, num_hidden_layers=4, num_attention_heads=4), 16_384
    )
    large = measure_gpu_tokens_per_s(ModelConfig(), 16_384)
    assert small > large > 10_000
