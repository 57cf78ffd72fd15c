"""Other settings of the switches on their way to Transformers: BERT, ModernBERT's own variants, and neither."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM

from modernbert_train.checkpoints.hf import writing
from modernbert_train.checkpoints.source import FailedCheck
from modernbert_train.config import ModelConfig
from modernbert_train.convert.export import export_checkpoint
from modernbert_train.convert.import_ import import_folder
from tests.helpers.exported import TINY, random_weights, write_checkpoint_of, write_tokenizer
from tests.helpers.weights import load_weights

BERT = ModelConfig(
    vocab_size=320, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48,
    norm_placement="post", mlp="gelu", positions="learned", bias=True, global_attn_every_n_layers=1,
    norm_eps=1e-12, embedding_dropout=0.1, attn_out_dropout=0.2, mlp_out_dropout=0.3,
    initializer_cutoff_factor=3.0, max_position_embeddings=96,
)  # fmt: skip
VARIANTS = {
    "bert": BERT,
    "swiglu": replace(TINY, mlp="swiglu"),
    "biases": replace(TINY, bias=True),
    "both": replace(TINY, mlp="swiglu", bias=True, embedding_dropout=0.1, mlp_out_dropout=0.2),
}


def write_run(folder: Path, config: ModelConfig) -> Path:
    """A run folder with one checkpoint, whose thetas are those of its model."""
    thetas = {name: getattr(config, name) for name in ("global_rope_theta", "local_rope_theta")}
    return write_checkpoint_of(folder, random_weights(config), config, **thetas).parents[1]


@pytest.mark.parametrize("name", VARIANTS)
def test_export_and_import_are_inverse(tmp_path: Path, name: str) -> None:
    run = write_run(tmp_path / "run", VARIANTS[name])
    first = export_checkpoint(run, tmp_path / "first")
    imported = import_folder(first, tmp_path / "imported")
    (before, info_before), (after, info_after) = load_weights(run), load_weights(imported)
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert info_before.model == info_after.model
    assert info_before.context_tokens == info_after.context_tokens
    second = export_checkpoint(imported, tmp_path / "second")
    for file in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        assert (first / file).read_bytes() == (second / file).read_bytes(), file


def test_bert_is_what_transformers_saves(tmp_path: Path) -> None:
    out = export_checkpoint(write_run(tmp_path / "run", BERT), tmp_path / "out")
    model = AutoModelForMaskedLM.from_pretrained(out)
    assert type(model) is BertForMaskedLM
    assert (model.config.hidden_dropout_prob, model.config.attention_probs_dropout_prob) == (0.0, 0.0)
    assert model.config.max_position_embeddings == 96
    model.save_pretrained(tmp_path / "theirs")
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (out, tmp_path / "theirs"))
    assert ours.keys() == theirs.keys()
    card = (out / "README.md").read_text()
    assert "- bert\n" in card
    assert "A BERT encoder with" in card
    assert "| GELU size | 48 |" in card
    assert "| global attention | every layer |" in card
    assert "| differences from ModernBERT | post-norm, learned positions, biases |" in card
    assert "theta" not in card
    assert "local attention" not in card


@pytest.mark.parametrize("wrong", [{"hidden_act": "relu"}, {"layer_norm_eps": 0.1}])
def test_the_comparison_notices_a_wrong_config(
    tmp_path: Path, wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = writing.to_hf_config
    monkeypatch.setattr(writing, "to_hf_config", lambda *arguments: right(*arguments) | wrong)
    run = write_run(tmp_path / "run", BERT)
    with pytest.raises(FailedCheck, match="Transformers' logits differ from ours by"):
        export_checkpoint(run, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def their_bert(folder: Path, **fields: Any) -> Path:
    """A BERT as others train it, with token types and dropout, whose weights all make a difference."""
    config = BertConfig(
        vocab_size=320, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=80, pad_token_id=259, initializer_range=0.2, attention_probs_dropout_prob=0.0,
        **fields,
    )  # fmt: skip
    torch.manual_seed(0)
    model = BertForMaskedLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def test_a_bert_of_transformers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, info = load_weights(import_folder(their_bert(tmp_path / "bert"), tmp_path / "imported"))
    assert capsys.readouterr().out.count("max |difference|") == 4  # compared, and equal
    model = info.model
    assert (model.norm_eps, model.initializer_range, model.max_position_embeddings) == (1e-12, 0.2, 80)
    assert (model.embedding_dropout, model.attn_out_dropout, model.mlp_out_dropout) == (0.1, 0.1, 0.1)
    assert info.context_tokens == 80


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new', supported is 'gelu'"),
        ({"position_embedding_type": "relative_key"}, "is 'relative_key', supported is 'absolute'"),
        ({"is_decoder": True}, "is_decoder is True, supported is False"),
        ({"num_attention_heads": 3}, "hidden_size 32 is not a multiple of 3 heads"),
    ],
)
def test_unsupported_berts(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = their_bert(tmp_path / "bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ValueError, match=message):
        import_folder(folder, tmp_path / "imported")


@pytest.mark.parametrize(
    ("switches", "modernbert", "bert"),
    [
        ({"norm": "rmsnorm"}, r"model\.norm rmsnorm \(has layernorm\);", r"model\.norm rmsnorm \(has layernorm\), "),
        ({"mlp": "relu2"}, r"model\.mlp relu2 \(has geglu and swiglu\);", r"model\.mlp relu2 \(has gelu\), "),
        ({"parallel_block": True}, r"model\.parallel_block true \(has false\);", r"model\.norm_placement pre \(has"),
        ({"positions": "none"}, r"model\.positions none \(has rope\);", r"model\.positions none \(has learned\)"),
        (
            {"norm_placement": "post", "mlp": "gelu", "positions": "learned", "bias": True},
            r"model\.norm_placement post \(has pre\), model\.mlp gelu \(has geglu and swiglu\), ",
            r"model\.global_attn_every_n_layers 3 \(has 1\); train with the settings of one of them",
        ),
    ],
)  # fmt: skip
def test_a_model_without_a_class(
    tmp_path: Path, switches: dict[str, Any], modernbert: str, bert: str
) -> None:
    run = write_run(tmp_path / "run", replace(TINY, **switches))
    message = f"no class of Transformers computes this model, .*ModernBertForMaskedLM lacks {modernbert}.*"
    with pytest.raises(ValueError, match=f"{message}BertForMaskedLM lacks .*{bert}"):
        export_checkpoint(run, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
