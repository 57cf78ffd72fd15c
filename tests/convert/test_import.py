import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from modernbert_train.checkpoints.hf import folder as hf_folder_module
from modernbert_train.checkpoints.hf.config import from_hf_config
from modernbert_train.config import ModelConfig
from modernbert_train.convert.export import export_checkpoint
from modernbert_train.convert.import_ import import_folder
from tests.helpers.exported import TINY, random_weights, write_checkpoint_of
from tests.helpers.weights import load_weights

# config.json of answerdotai/ModernBERT-base, but for its sizes: the spelling of Transformers 4.48.
OLD_CONFIG = {
    "architectures": ["ModernBertForMaskedLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 257,
    "classifier_activation": "gelu",
    "classifier_bias": False,
    "classifier_dropout": 0.0,
    "classifier_pooling": "mean",
    "cls_token_id": 257,
    "decoder_bias": True,
    "deterministic_flash_attn": False,
    "embedding_dropout": 0.0,
    "eos_token_id": 258,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000.0,
    "gradient_checkpointing": False,
    "hidden_activation": "gelu",
    "hidden_size": 32,
    "initializer_cutoff_factor": 2.0,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "layer_norm_eps": 1e-05,
    "local_attention": 16,
    "local_rope_theta": 10000.0,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "mlp_dropout": 0.0,
    "model_type": "modernbert",
    "norm_bias": False,
    "norm_eps": 1e-05,
    "num_attention_heads": 2,
    "num_hidden_layers": 4,
    "pad_token_id": 259,
    "position_embedding_type": "absolute",
    "sep_token_id": 258,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "transformers_version": "4.47.0.dev0",
    "vocab_size": 320,
}


def write_config(folder: Path, **changes: Any) -> None:
    """ModernBERT-base's spelling of the config; a change to None takes the field out."""
    config = {name: value for name, value in (OLD_CONFIG | changes).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))


def change_weights(folder: Path, change: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model with theta 160,000."""
    folder = tmp_path_factory.mktemp("exported")
    checkpoint = write_checkpoint_of(folder / "run", random_weights(TINY), global_rope_theta=160_000.0)
    return export_checkpoint(checkpoint, folder / "hf")


@pytest.fixture
def hf_folder(tmp_path: Path, exported: Path) -> Path:
    """A copy of the exported model, to be spoilt, under ModernBERT-base's old config."""
    folder = Path(shutil.copytree(exported, tmp_path / "hf"))
    write_config(folder)
    return folder


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_import_of_export_is_the_same(
    tmp_path: Path, weights: dict[str, torch.Tensor], dropout: float
) -> None:
    config = ModelConfig(
        vocab_size=320, hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=48,
        local_attention=16, global_attn_every_n_layers=3, global_rope_theta=500.0, local_rope_theta=700.0,
        attn_out_dropout=dropout, initializer_range=0.03, initializer_cutoff_factor=3.0,
        max_position_embeddings=512, norm_eps=1e-6,
    )  # fmt: skip
    run = write_checkpoint_of(
        tmp_path / "run", weights, config, global_rope_theta=500.0, local_rope_theta=700.0
    ).parents[1]

    imported = import_folder(export_checkpoint(run, tmp_path / "hf"), tmp_path / "imported")

    before, info_before = load_weights(run)
    after, info_after = load_weights(imported)
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    same = ("model", "context_tokens", "global_rope_theta", "local_rope_theta", "tokenizer_fingerprint")
    assert [getattr(info_before, name) for name in same] == [getattr(info_after, name) for name in same]
    assert (info_after.step, info_after.tokens) == (0, 0)
    assert json.loads((imported / "tokenizer.json").read_text()) == json.loads(
        (run / "tokenizer.json").read_text()
    )


def test_export_of_import_is_the_same(tmp_path: Path, run: Path) -> None:
    first = export_checkpoint(run, tmp_path / "first")
    second = export_checkpoint(import_folder(first, tmp_path / "imported"), tmp_path / "second")
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_layout_of_modernbert_base(tmp_path: Path, hf_folder: Path, weights: dict[str, torch.Tensor]) -> None:
    assert "decoder.weight" not in load_file(hf_folder / "model.safetensors")
    after, info = load_weights(import_folder(hf_folder, tmp_path / "imported"))
    assert all(torch.equal(weights[name], after[name]) for name in weights)
    assert (info.global_rope_theta, info.local_rope_theta) == (160_000.0, 10_000.0)
    assert info.model.global_attn_every_n_layers == 3


def test_pytorch_model_bin_and_half_precision(tmp_path: Path, hf_folder: Path) -> None:
    weights = {name: weight.bfloat16() for name, weight in load_file(hf_folder / "model.safetensors").items()}
    weights["decoder.weight"] = weights["model.embeddings.tok_embeddings.weight"]
    torch.save(weights, hf_folder / "pytorch_model.bin")
    (hf_folder / "model.safetensors").unlink()
    after, _ = load_weights(import_folder(hf_folder, tmp_path / "imported"))
    assert all(weight.dtype == torch.float32 for weight in after.values())
    assert torch.equal(after["head.dense.weight"], weights["head.dense.weight"].float())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_bias": True, "mlp_bias": True}, "norm_bias is True, attention_bias is False, .* for all of them"),
        ({"hidden_activation": "relu"}, "hidden_activation is 'relu', supported are gelu, silu"),
        ({"classifier_activation": "relu"}, "classifier_activation is 'relu', supported is 'gelu'"),
        ({"rope_parameters": {"rope_theta": 1e4}}, "rope_parameters is {'rope_theta': 10000.0}, supported is an obj"),
        ({"layer_types": "full_attention"}, "layer_types is 'full_attention', expected a list"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False, supported is True"),
        ({"local_rope_theta": -1}, "local_rope_theta is -1, which is not a RoPE theta; write the value"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_scaling is .*, supported is none"),
        ({"num_attention_heads": 3}, "hidden_size 32 is not a multiple of 3 heads"),
        ({"local_attention": 15}, "local_attention is 15"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0}}},
            "rope_parameters of full_attention has {'rope_type': 'linear', 'factor': 2.0}, supported is",
        ),
        (
            {"global_attn_every_n_layers": 1, "layer_types": ["full_attention"] * 3 + ["sliding_attention"]},
            "layer_types is not 'full_attention in layers 0, 1, 2, ...'",
        ),
    ],
)  # fmt: skip
def test_unsupported_settings(tmp_path: Path, hf_folder: Path, changes: dict[str, Any], message: str) -> None:
    write_config(hf_folder, **changes)
    with pytest.raises(ValueError, match=message):
        import_folder(hf_folder, tmp_path / "imported")
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize(
    ("layer_types", "every_n"),
    [("gggg", 1), ("glgl", 2), ("gllg", 3), ("glll", 4)],
)
def test_alternation_is_read_from_layer_types(layer_types: str, every_n: int) -> None:
    kinds = {"g": "full_attention", "l": "sliding_attention"}
    content = OLD_CONFIG | {"layer_types": [kinds[letter] for letter in layer_types]}
    del content["global_attn_every_n_layers"]
    assert from_hf_config(content, Path("config.json")).global_attn_every_n_layers == every_n


def test_defaults_are_those_of_transformers() -> None:
    model = from_hf_config({"model_type": "modernbert"}, Path("config.json"))
    assert (model.vocab_size, model.num_hidden_layers, model.hidden_size) == (50_368, 22, 768)
    assert (model.global_rope_theta, model.local_rope_theta) == (160_000.0, 10_000.0)
    assert (model.global_attn_every_n_layers, model.local_attention, model.norm_eps) == (3, 128, 1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", "config.json does not exist; name a folder with config.json, model.safetensors"),
        ("model.safetensors", "has neither model.safetensors nor pytorch_model.bin; download the weights"),
        ("tokenizer.json", "tokenizer.json does not exist"),
    ],
)
def test_missing_files(tmp_path: Path, hf_folder: Path, name: str, message: str) -> None:
    (hf_folder / name).unlink()
    with pytest.raises(ValueError, match=message):
        import_folder(hf_folder, tmp_path / "imported")
    assert not (tmp_path / "imported").exists()


def test_nan_in_weights(tmp_path: Path, hf_folder: Path) -> None:
    change_weights(hf_folder, lambda weights: weights["head.norm.weight"].fill_(float("nan")))
    with pytest.raises(ValueError, match=r"head\.norm\.weight holds NaN or infinity"):
        import_folder(hf_folder, tmp_path / "imported")


def test_tokenizer_larger_than_the_vocabulary(tmp_path: Path, hf_folder: Path) -> None:
    write_config(hf_folder, vocab_size=256)
    with pytest.raises(ValueError, match=r"tokenizer\.json has ids up to 260, the model has vocab_size 256"):
        import_folder(hf_folder, tmp_path / "imported")


def test_the_comparison_notices_a_config_read_wrongly(
    tmp_path: Path, hf_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def misread(content: dict[str, Any], file: Path) -> ModelConfig:
        return from_hf_config(content | {"global_rope_theta": 10_000.0}, file)

    monkeypatch.setattr(hf_folder_module, "from_hf_config", misread)
    with pytest.raises(ValueError, match="Transformers' logits differ from ours by"):
        import_folder(hf_folder, tmp_path / "imported")
    assert not (tmp_path / "imported").exists()


def test_never_overwrites(tmp_path: Path, hf_folder: Path, run: Path) -> None:
    with pytest.raises(ValueError, match="run exists and is not empty"):
        import_folder(hf_folder, run)
