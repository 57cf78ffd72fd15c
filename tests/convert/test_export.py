import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from modernbert_train.checkpoints.run_files import list_checkpoints
from modernbert_train.checkpoints.source import FailedCheck, build_encoder
from modernbert_train.convert import export
from modernbert_train.convert.export import export_checkpoint
from modernbert_train.store.manifest import load_tokenizer_info
from tests.convert.conftest import TINY, random_weights, write_checkpoint_of, write_tokenizer
from tests.helpers.weights import make_info

PHASES = {
    "pretrain": {"context_tokens": 64, "global_rope_theta": 10_000.0, "local_rope_theta": 10_000.0},
    "extend": {"context_tokens": 256, "global_rope_theta": 160_000.0, "local_rope_theta": 10_000.0},
    "decay": {"context_tokens": 256, "global_rope_theta": 160_000.0, "local_rope_theta": 500.0},
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
    right = export.to_hf_config

    def wrong_config(*arguments: object) -> dict[str, object]:
        config = right(*arguments)  # type: ignore[arg-type]
        config["rope_parameters"]["full_attention"]["rope_theta"] = wrong.get("global_rope_theta", 10_000.0)
        config["rope_parameters"]["sliding_attention"]["rope_theta"] = wrong.get("local_rope_theta", 10_000.0)
        if "global_attn_every_n_layers" in wrong:
            config["layer_types"] = ["full_attention", "sliding_attention"] * 2
        return config | wrong

    monkeypatch.setattr(export, "to_hf_config", wrong_config)
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
    monkeypatch.setattr(export, "text_ids", lambda tokenizer, text: [0])
    with pytest.raises(
        FailedCheck,
        match=r"tokenizer\.json: AutoTokenizer gives .* training gave \[0\]; correct the tokenizer_config",
    ):
        export_checkpoint(run, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_options_of_special_tokens_are_kept(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    run = write_checkpoint_of(tmp_path / "run", weights).parents[1]
    mask = {"__type": "AddedToken", "content": "[MASK]", "lstrip": True, "normalized": False, "special": True}
    (run / "tokenizer_config.json").write_text(json.dumps({"mask_token": mask}))
    out = export_checkpoint(run, tmp_path / "out")
    assert json.loads((out / "tokenizer_config.json").read_text())["mask_token"] == mask


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
data:
  sources:
    web: {store: stores/web, source: null}
    code: {store: stores/code, source: null}
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
    assert "on 3,000 tokens" in card
    assert "| pretrain | 2,000 | 64 | 10,000 | 30% | 0.001 | web 75%, code 25% |" in card
    assert "| extend |" not in card, "this phase came after the checkpoint"
    assert "- `web`: stores/web" in card
    assert "The weights started from `imported/base`." in card
    assert "| web | 4.500 | 20.0% |" in card
    assert "| web | 1.000 | 90.0% |" not in card, "these scores came after the checkpoint"
    assert RECIPE.strip() in card


def test_model_card_of_an_imported_model_has_no_recipe(tmp_path: Path, run: Path) -> None:
    card = (export_checkpoint(run, tmp_path / "out") / "README.md").read_text()
    num_parameters = sum(
        weight.numel() for name, weight in random_weights(TINY).items() if name != "decoder.weight"
    )
    assert f"| parameters | {num_parameters:,} |" in card
    assert "## Training" not in card
    assert "## Evaluation" not in card
