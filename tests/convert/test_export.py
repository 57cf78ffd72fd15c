import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import Tokenizer
from transformers import AutoModelForMaskedLM, AutoTokenizer

from modernbert_train.checkpoints.checkpoint import save_weights
from modernbert_train.checkpoints.hf import writing
from modernbert_train.checkpoints.run_files import list_checkpoints
from modernbert_train.checkpoints.source import FailedCheck, build_encoder
from modernbert_train.convert.export import export_checkpoint
from modernbert_train.convert.model_card import model_card
from modernbert_train.objectives import OBJECTIVES, MaskedLM
from modernbert_train.store.tokenizer import TokenizerInfo, load_tokenizer_info
from tests.helpers.exported import TINY, random_weights, write_checkpoint_of, write_tokenizer
from tests.helpers.weights import make_info

PHASES = {
    "pretrain": {"context_tokens": 64, "global_rope_theta": 10_000.0, "local_rope_theta": 10_000.0},
    "extend": {"context_tokens": 256, "global_rope_theta": 160_000.0, "local_rope_theta": 10_000.0},
    "decay": {"context_tokens": 256, "global_rope_theta": 160_000.0, "local_rope_theta": 500.0},
}

TINY_BERT = dataclasses.replace(
    TINY, bias=True, norm_placement="post", mlp="gelu", positions="learned", global_attn_every_n_layers=1
)
# Program -> fields of config.json that it needs, where the source of each was read in 2026: fields that Rust
# deserializes without a default, and attributes that Python reads without one (here, ours has none that the class of
# Transformers would add).
MODERNBERT_READERS = {
    # huggingface/transformers, v4.48.3 and v4.57.6: configuration_modernbert.py and modeling_modernbert.py
    "Transformers 4": (
        "architectures model_type vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads "
        "hidden_activation max_position_embeddings norm_eps norm_bias pad_token_id cls_token_id sep_token_id "
        "bos_token_id eos_token_id global_rope_theta local_rope_theta attention_bias attention_dropout "
        "global_attn_every_n_layers local_attention embedding_dropout mlp_bias mlp_dropout decoder_bias "
        "classifier_pooling classifier_dropout classifier_bias classifier_activation torch_dtype"
    ),
    # the same, v5.23.0
    "Transformers 5": "layer_types rope_parameters dtype tie_word_embeddings",
    # huggingface/candle: candle-transformers/src/models/modernbert.rs, Config
    "Candle": (
        "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size max_position_embeddings "
        "layer_norm_eps pad_token_id global_attn_every_n_layers global_rope_theta local_attention local_rope_theta"
    ),
    # huggingface/text-embeddings-inference: backends/candle/src/models/modernbert.rs and router/src/lib.rs, ModelConfig
    "text-embeddings-inference": (
        "architectures model_type vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads "
        "hidden_activation max_position_embeddings initializer_range initializer_cutoff_factor norm_eps norm_bias "
        "pad_token_id eos_token_id bos_token_id cls_token_id sep_token_id global_rope_theta attention_bias "
        "attention_dropout global_attn_every_n_layers local_attention local_rope_theta classifier_activation"
    ),
    # vllm-project/vllm: model_executor/models/modernbert.py, at v0.10 (layer_norm_eps) and in 2026 (layer_types)
    "vLLM": (
        "vocab_size hidden_size layer_norm_eps norm_eps norm_bias deterministic_flash_attn num_attention_heads "
        "attention_bias global_attn_every_n_layers local_attention global_rope_theta local_rope_theta layer_types "
        "rope_parameters max_position_embeddings intermediate_size mlp_bias num_hidden_layers classifier_pooling "
        "classifier_bias classifier_activation"
    ),
    # huggingface/optimum-onnx: optimum/exporters/onnx/model_configs.py, ModernBertOnnxConfig (a NormalizedTextConfig)
    "ONNX export by Optimum": "vocab_size hidden_size num_hidden_layers num_attention_heads",
}
BERT_READERS = {
    # huggingface/candle: candle-transformers/src/models/bert.rs, Config
    "Candle": (
        "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act "
        "hidden_dropout_prob max_position_embeddings type_vocab_size initializer_range layer_norm_eps pad_token_id"
    ),
    # huggingface/text-embeddings-inference: backends/candle/src/models/bert.rs
    "text-embeddings-inference": (
        "architectures model_type vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size "
        "hidden_act hidden_dropout_prob max_position_embeddings type_vocab_size initializer_range layer_norm_eps "
        "pad_token_id position_embedding_type use_cache"
    ),
    "Transformers 4": "position_embedding_type classifier_dropout attention_probs_dropout_prob torch_dtype",
}


@pytest.mark.parametrize("step", [0, 12])
@pytest.mark.parametrize("phase", PHASES)
def test_transformers_gives_our_logits_after_every_phase(
    tmp_path: Path, weights: dict[str, torch.Tensor], phase: str, step: int
) -> None:
    checkpoint = write_checkpoint_of(tmp_path / "run", weights, step=step, phase=phase, **PHASES[phase])

    out = export_checkpoint(checkpoint, tmp_path / "out")

    # A second look, apart from the one inside `export_checkpoint`: texts padded against texts packed.
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(out).eval(), AutoTokenizer.from_pretrained(out)
    texts = ["a", "hello there", "the window is 16 tokens wide, and this text is longer than that"]
    padded = tokenizer(texts, padding=True, return_tensors="pt")
    lengths = padded["attention_mask"].sum(1)
    ours = build_encoder(make_info(model=TINY, **PHASES[phase]), weights)
    real = padded["attention_mask"].bool()
    with torch.no_grad():
        theirs = model(**padded).logits[real]
        expected = ours(
            input_ids=padded["input_ids"][real],
            position_ids=torch.cat([torch.arange(length) for length in lengths.tolist()]),
            cu_seqlens=torch.tensor([0, *lengths.cumsum(0).tolist()], dtype=torch.int32),
            max_seqlen=int(lengths.max()),
        )
    torch.testing.assert_close(theirs, expected, atol=5e-5, rtol=1e-5)
    assert tokenizer.model_max_length == PHASES[phase]["context_tokens"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"global_rope_theta": 10_001.0},
        {"local_rope_theta": 160_000.0},
        {"local_attention": 18},
        {"global_attn_every_n_layers": 2},
    ],
)
def test_the_comparison_notices_a_wrong_config_and_leaves_nothing(
    tmp_path: Path, run: Path, wrong: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = writing.to_hf_config

    def wrong_config(*arguments: object) -> dict[str, object]:
        config = right(*arguments)  # type: ignore[arg-type]
        config["rope_parameters"]["full_attention"]["rope_theta"] = wrong.get("global_rope_theta", 10_000.0)
        config["rope_parameters"]["sliding_attention"]["rope_theta"] = wrong.get("local_rope_theta", 10_000.0)
        if "global_attn_every_n_layers" in wrong:
            config["layer_types"] = ["full_attention", "sliding_attention"] * 2
        return config | wrong

    monkeypatch.setattr(writing, "to_hf_config", wrong_config)
    with pytest.raises(FailedCheck, match="Transformers' logits differ from ours by"):
        export_checkpoint(run, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_in_weights_leaves_nothing(
    tmp_path: Path, weights: dict[str, torch.Tensor], value: float
) -> None:
    weights["model.layers.1.mlp.Wo.weight"][0, 0] = value
    run = write_checkpoint_of(tmp_path / "run", weights).parents[1]
    with pytest.raises(
        FailedCheck, match=r"model\.layers\.1\.mlp\.Wo\.weight holds NaN or infinity; use an earlier"
    ):
        export_checkpoint(run, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_logits_that_overflow_leave_nothing(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    weights["decoder.bias"].fill_(3e38)
    weights["model.embeddings.tok_embeddings.weight"].mul_(1e38)
    run = write_checkpoint_of(tmp_path / "run", weights).parents[1]
    with pytest.raises(FailedCheck, match="Transformers' logits differ from ours by nan"):
        export_checkpoint(run, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.parametrize("content", ["a file", "a folder"])
def test_never_overwrites(tmp_path: Path, run: Path, content: str) -> None:
    out = tmp_path / "out"
    if content == "a file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "mine").touch()
    with pytest.raises(
        ValueError, match="out exists and is not empty; name a new folder, or remove it first"
    ):
        export_checkpoint(run, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def test_a_url_is_not_a_folder_to_write(tmp_path: Path, run: Path) -> None:
    with pytest.raises(
        ValueError, match=r"the folder to write is s3:/bucket/out, a URL, .*; name a folder on"
    ):
        export_checkpoint(run, "s3://bucket/out")
    assert not Path("s3:").exists()


def test_an_empty_folder_is_filled(tmp_path: Path, run: Path) -> None:
    (tmp_path / "out").mkdir()
    out = export_checkpoint(run, tmp_path / "out")
    names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"}
    assert {path.name for path in out.iterdir()} == names


def test_a_run_without_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(ValueError, match="no checkpoint in it"):
        export_checkpoint(tmp_path / "run", tmp_path / "out")
    with pytest.raises(ValueError, match="no such run folder or checkpoint"):
        export_checkpoint(tmp_path / "typo", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_run_whose_tokenizer_was_replaced(tmp_path: Path, run: Path) -> None:
    content = json.loads((run / "tokenizer.json").read_text())
    ids = content["model"]["vocab"]
    ids["a"], ids["b"] = ids["b"], ids["a"]
    (run / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match="is not the tokenizer that the weights were trained with; restore the original"
    ):
        export_checkpoint(run, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_the_tokenizer_adds_what_the_loader_added(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    run = tmp_path / "run"
    write_checkpoint_of(run, weights)
    write_tokenizer(run, with_template=False)

    tokenizer = AutoTokenizer.from_pretrained(export_checkpoint(run, tmp_path / "out"))

    assert tokenizer.decode(tokenizer("ab")["input_ids"]) == "[CLS]ab[SEP]"
    assert tokenizer.decode(tokenizer("a", "b")["input_ids"]) == "[CLS]a[SEP]b[SEP]"
    assert set(tokenizer("a", "b")) == {"input_ids", "attention_mask"}


def test_a_tokenizer_that_transformers_reads_differently_leaves_nothing(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = writing.export_tokenizer

    def export_wrongly(tokenizer: TokenizerInfo, folder: Path, context_tokens: int) -> None:
        right(tokenizer, folder, context_tokens)
        config = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps({**config, "split_special_tokens": True}))

    monkeypatch.setattr(writing, "export_tokenizer", export_wrongly)
    with pytest.raises(
        FailedCheck, match=r"AutoTokenizer of Transformers .* gives .* for 'It opens at \[MASK\]"
    ):
        export_checkpoint(run, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def _run_with_tokenizer(run: Path, tokenizer: dict[str, Any], config: dict[str, Any]) -> Path:
    """Give the fixture's run these tokenizer files, as if it had been trained with them; return its checkpoint."""
    (run / "tokenizer.json").write_text(json.dumps(tokenizer))
    (run / "tokenizer_config.json").write_text(json.dumps(config))
    info = make_info(model=TINY, tokenizer_fingerprint=load_tokenizer_info(run).fingerprint)
    return save_weights(run, random_weights(TINY), info)


def test_special_tokens_that_were_not_added_are_added(tmp_path: Path, run: Path) -> None:
    content = json.loads((run / "tokenizer.json").read_text())
    content["model"]["vocab"] |= {entry["content"]: entry["id"] for entry in content["added_tokens"]}
    checkpoint = _run_with_tokenizer(run, {**content, "added_tokens": []}, {})

    out = export_checkpoint(checkpoint, tmp_path / "out", fill=["a [MASK] b"])

    text, ids = "a [MASK].", AutoTokenizer.from_pretrained(out)("a [MASK].")["input_ids"]
    info = load_tokenizer_info(run)
    assert (ids[0], ids[2], ids[-1]) == (info.cls_id, info.mask_id, info.sep_id)
    assert Tokenizer.from_file(str(out / "tokenizer.json")).encode(text).ids == ids, (
        "for programs without Transformers"
    )


def test_only_fields_that_every_version_of_transformers_reads_alike_are_exported(
    tmp_path: Path, run: Path
) -> None:
    content = json.loads((run / "tokenizer.json").read_text())
    entity = {**content["added_tokens"][0], "content": "[ENT]", "id": 261}
    word = {**entity, "content": "None", "id": 262, "special": False}
    mask = {"content": "[MASK]", "lstrip": True, "normalized": False}  # without "__type"
    config = {
        "tokenizer_class": "TokenizersBackend",
        "backend": "tokenizers",
        "mask_token": mask,
        "bos_token": "<s>",  # not in the vocabulary
        "eos_token": None,  # not the word None
        # Only the first one is a special token: the others would change the ids of texts.
        "extra_special_tokens": ["[ENT]", "[NONE]", "None", "a"],
        "auto_map": {"AutoTokenizer": ["code.py", None]},
        "add_eos_token": True,
        "padding_side": "left",
    }
    checkpoint = _run_with_tokenizer(
        run, {**content, "added_tokens": [*content["added_tokens"], entity, word]}, config
    )

    out = export_checkpoint(checkpoint, tmp_path / "out")

    exported = json.loads((out / "tokenizer_config.json").read_text())
    assert exported == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "mask_token": "[MASK]",
        "padding_side": "left",
        "add_prefix_space": False,
        "additional_special_tokens": ["[ENT]"],
        "model_max_length": 64,
    }
    assert len(AutoTokenizer.from_pretrained(out)) == 263


@pytest.mark.parametrize("bert", [False, True])
def test_config_has_every_field_that_other_programs_read(tmp_path: Path, run: Path, bert: bool) -> None:
    if bert:
        write_checkpoint_of(run, random_weights(TINY_BERT), TINY_BERT)
    config = json.loads((export_checkpoint(run, tmp_path / "out") / "config.json").read_text())
    for program, fields in (BERT_READERS if bert else MODERNBERT_READERS).items():
        assert [name for name in fields.split() if name not in config] == [], program
    if not bert:
        assert config["norm_eps"] == config["layer_norm_eps"]
        for kind, older in (("full_attention", "global"), ("sliding_attention", "local")):
            assert config["rope_parameters"][kind]["rope_theta"] == config[f"{older}_rope_theta"]


def test_weights_that_cannot_be_written(tmp_path: Path, run: Path, weights: dict[str, torch.Tensor]) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(ValueError, match=r"the weights cannot be written \(.*\); free disk space"):
        writing.write_hf_folder(tmp_path, weights, make_info(model=TINY), load_tokenizer_info(run))


def test_config_in_both_forms(tmp_path: Path, run: Path) -> None:
    out = export_checkpoint(run, tmp_path / "out")
    config = json.loads((out / "config.json").read_text())
    tokenizer = load_tokenizer_info(run)
    assert config["architectures"] == ["ModernBertForMaskedLM"]
    assert (
        config["global_attn_every_n_layers"],
        config["global_rope_theta"],
        config["local_rope_theta"],
    ) == (3, 1e4, 1e4)
    assert config["layer_types"] == [
        "full_attention",
        "sliding_attention",
        "sliding_attention",
        "full_attention",
    ]
    assert config["rope_parameters"]["full_attention"] == {"rope_type": "default", "rope_theta": 10_000.0}
    assert [config[f"{role}_dropout"] for role in ("attention", "embedding", "mlp", "classifier")] == [
        0.0
    ] * 4
    ids = (tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id, tokenizer.mask_id)
    assert tuple(config[f"{role}_token_id"] for role in ("cls", "sep", "pad", "mask")) == ids
    assert (config["bos_token_id"], config["eos_token_id"]) == ids[:2]


def test_fills_masks(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_checkpoint(run, tmp_path / "out", fill=["a [MASK] b", "[MASK][MASK]"])
    lines = capsys.readouterr().out.splitlines()
    assert sum("max |difference|" in line for line in lines) == 4
    assert [line.strip() for line in lines].count("[MASK][MASK]") == 2
    filled = lines[lines.index("  a [MASK] b") + 1]
    assert filled.count("%") == 3


def test_texts_to_fill_are_checked_first(tmp_path: Path, run: Path) -> None:
    with pytest.raises(ValueError, match=r"fill: 'no mask' has no \[MASK\]; write \[MASK\] where"):
        export_checkpoint(run, tmp_path / "out", fill=["no mask"])
    with pytest.raises(ValueError, match="fill: a text of 83 tokens is longer than the context of 64"):
        export_checkpoint(run, tmp_path / "out", fill=["[MASK]" + "x" * 80])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_named_checkpoint_instead_of_the_newest(
    tmp_path: Path, run: Path, weights: dict[str, torch.Tensor]
) -> None:
    first = list_checkpoints(run)[0]
    write_checkpoint_of(run, {name: weight * 2 for name, weight in weights.items()}, step=9)
    out = export_checkpoint(first, tmp_path / "out")
    exported = AutoModelForMaskedLM.from_pretrained(out).state_dict()
    assert torch.equal(exported["head.dense.weight"], weights["head.dense.weight"])


RECIPE = """\
name: toy
init: {from: imported/base}
run_folder: /mnt/acme/run
data:
  tokenizer: /mnt/acme/tokenizer
  cache: {folder: /mnt/acme/cache}
  skip: {steps: [], documents_file: /mnt/acme/skip.txt}
  sources:
    web: {store: stores/web, source: null}
    code: {store: "s3://key:secret@bucket", source: acme-code}
wandb: {project: acme, entity: team}
phases:
  pretrain: {tokens: 2000, context_tokens: 64, global_rope_theta: 10000.0, mask_rate: 0.3,
             learning_rate: 0.001, mixture: {web: 0.75, code: 0.25}}
  extend: {tokens: 1000, context_tokens: 256, global_rope_theta: 160000.0, mask_rate: 0.3,
           learning_rate: 0.0003, mixture: {web: 1.0}}
"""


def test_model_card(tmp_path: Path, run: Path) -> None:
    (run / "recipe.yaml").write_text(RECIPE)
    lines = [
        {"step": 1, "tokens": 1_000, "phase": "pretrain", "eval": {"web": {"loss": 5.0, "accuracy": 0.1}}},
        {"step": 2, "tokens": 2_000, "phase": "pretrain", "eval": {"web": {"loss": 4.5, "accuracy": 0.2}}},
        {"step": 3, "tokens": 3_000, "phase": "pretrain", "loss": 4.0},
        {"step": 3, "phase": "warm", "objective": "clm", "eval": {"web": {"loss": 4.4, "accuracy": 0.3}}},
        {"step": 9, "tokens": 9_000, "phase": "extend", "eval": {"web": {"loss": 1.0, "accuracy": 0.9}}},
    ]
    unfinished = '{"step": 10, "tok'
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + unfinished)
    card = (export_checkpoint(run, tmp_path / "out") / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: fill-mask\n")
    assert "\n# toy\n" in card, "the name of the run, not of the folder"
    assert "on 3,000 tokens" in card
    assert "| pretrain | 2,000 | 64 | 10,000 | 30% | 0.001 | web 75%, code 25% |" in card
    assert "| extend |" not in card, "this phase came after the checkpoint"
    assert "Sources of text: `web`, `code`." in card
    assert "The weights started from `base`." in card
    assert "| web | 4.500 | 20.0% |" in card
    assert "| web | 1.000 | 90.0% |" not in card, "these scores came after the checkpoint"
    recipe = yaml.safe_load(card.partition("```yaml\n")[2].partition("```")[0])
    assert recipe["phases"] == yaml.safe_load(RECIPE)["phases"]
    assert recipe["data"]["sources"] == ["web", "code"]
    for private in ("stores", "secret", "bucket", "imported/", "acme", "/mnt", "team"):
        assert private not in card


def test_the_origin_in_a_model_card_has_no_secret(tmp_path: Path, run: Path) -> None:
    for origin, shown in {
        "https://me:secret@acme.com/a/base": "base",
        "s3://key:secret@bucket": "***@bucket",
    }.items():
        (run / "recipe.yaml").write_text(RECIPE.replace("imported/base", json.dumps(origin)))
        card = (export_checkpoint(run, tmp_path / shown[-4:]) / "README.md").read_text()
        assert f"The weights started from `{shown}`." in card
        assert not any(private in card for private in ("secret", "acme", "key"))


def test_model_card_of_another_objective(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES, "denoising", MaskedLM)
    scores = {"web": {"loss": 2.0, "accuracy": 0.5}, "empty": {"loss": None, "accuracy": None}}
    lines = [
        {"step": 1, "objective": "denoising", "eval": scores},
        {"step": 2, "objective": "mlm", "eval": {"web": {"loss": 1.0, "accuracy": 0.9}}},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    info = make_info(
        model=TINY,
        objective="denoising",
        merged="the mean of /home/me/a/step-1.pt (step 1), b/step-2.pt (step 2)",
    )
    card = model_card("toy", info, run)
    assert "last with objective `denoising`" in card
    assert "Objective `denoising` on held-out text with fixed masks, after step 1:" in card
    assert "| web | 2.000 | 50.0% |" in card
    assert "| empty |" not in card
    assert "Its weights are the mean of step-1.pt (step 1), step-2.pt (step 2)." in card


def test_model_card_of_an_imported_model_has_no_recipe(tmp_path: Path, run: Path) -> None:
    card = (export_checkpoint(run, tmp_path / "out") / "README.md").read_text()
    num_parameters = sum(
        weight.numel() for name, weight in random_weights(TINY).items() if name != "decoder.weight"
    )
    assert "\n# out\n" in card
    assert f"| parameters | {num_parameters:,} |" in card
    assert "## Training" not in card
    assert "## Evaluation" not in card
