"""Models in the layouts in which others publish them: read, compared with Transformers' own class, and exported."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForMaskedLM

from modernbert_train import cli
from modernbert_train.checkpoints.hf.transformers_model import HiddenStates
from modernbert_train.checkpoints.hf.vocabulary import without_padding
from modernbert_train.checkpoints.source import build_encoder, open_weights
from modernbert_train.common.errors import is_ours
from modernbert_train.convert import export_checkpoint, import_folder
from modernbert_train.convert.parity import compare_logits, probe_batches
from modernbert_train.evaluation.scorers import transformers_scorer
from tests.helpers import hub
from tests.helpers.weights import load_weights

LAYOUTS = [
    *((kind, hub.with_tied_twins) for kind in hub.ARCHITECTURES),
    *((kind, change) for kind in ("modernbert", "bert", "roberta") for change in (dict, hub.without_prefix)),
    *(
        (kind, change)
        for kind in ("bert", "roberta")
        for change in (hub.with_old_names, hub.with_other_heads)
    ),
]


def differences(imported: Path, model: Any, headless: bool = False) -> list[float]:
    """The largest differences between an imported checkpoint and the model it was published from."""
    source = open_weights(imported)
    batches = probe_batches(source.tokenizer(), 80, 16)
    ours = build_encoder(*without_padding(source.info, source.read()))
    results = (
        compare_logits(ours.model, HiddenStates(model), batches)
        if headless
        else compare_logits(ours, model, batches)
    )
    return [result.max_difference / max(1.0, result.max_logit) for result in results]


@pytest.mark.parametrize(("kind", "change"), LAYOUTS)
def test_every_layout_gives_the_logits_of_its_class(
    tmp_path: Path, kind: str, change: Callable[..., Any]
) -> None:
    model = hub.published_model(kind)
    folder = hub.write_published(tmp_path / "hub", model, change(hub.state_of(model)))
    imported = import_folder(folder, tmp_path / "imported")
    assert max(differences(imported, model)) < 1e-5
    info = open_weights(imported).info
    assert (info.context_tokens, info.model.max_position_embeddings) == (80, 80)


@pytest.mark.parametrize(
    "save",
    [hub.save_bin, hub.save_old_bin, hub.save_shards, hub.save_bin_shards, hub.save_beside_others],
)
def test_every_kind_of_file_gives_the_same_weights(tmp_path: Path, save: Callable[..., Any]) -> None:
    model = hub.published_model("bert")
    expected, _ = load_weights(hub.write_published(tmp_path / "one", model))
    weights, _ = load_weights(
        import_folder(hub.write_published(tmp_path / "hub", model, save=save), tmp_path / "out")
    )
    assert list(weights) == list(expected)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.parametrize("change", [hub.in_half, hub.in_bfloat16])
def test_half_precision(tmp_path: Path, change: Callable[..., Any]) -> None:
    model = hub.published_model("roberta")
    state = change(hub.state_of(model))
    weights, _ = load_weights(
        import_folder(hub.write_published(tmp_path / "hub", model, state), tmp_path / "out")
    )
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert torch.equal(weights["head.dense.weight"], state["lm_head.dense.weight"].float())


def test_what_is_left_out_or_unused_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = hub.published_model("bert")
    state = hub.with_other_heads(hub.state_of(model))
    import_folder(hub.write_published(tmp_path / "hub", model, state), tmp_path / "out")
    assert capsys.readouterr().out.splitlines()[:3] == [
        "config.json has hidden_dropout_prob 0.1, attention_probs_dropout_prob 0.1: the dropout of its training, which "
        "changes no logit; a recipe sets its own, model.embedding_dropout, model.attn_out_dropout, "
        "model.mlp_out_dropout, and has none inside the attention",
        "left out, because a masked language model does not use them: bert.pooler.dense, cls.seq_relationship",
        "the vocabulary of 283 is padded to 320 rows, a multiple of 64; the added rows have probability 0, and export "
        "removes them",
    ]


@pytest.mark.parametrize("kind", ["modernbert", "bert", "roberta"])
def test_a_missing_head_is_new(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = hub.published_model(kind)
    folder = hub.write_published(tmp_path / "hub", model, hub.without_head(hub.state_of(model)))
    first = import_folder(folder, tmp_path / "first")
    assert "this part of the masked-LM head starts as in a new model (seed 0)" in capsys.readouterr().out
    assert max(differences(first, model, headless=True)) < 1e-5
    weights, (again, _) = load_weights(first)[0], load_weights(folder)
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert 0.015 < weights["head.dense.weight"].std() < 0.02  # of a normal distribution of 0.02, truncated
    assert weights["head.norm.weight"].eq(1).all()
    assert weights["decoder.bias"][: hub.VOCAB_SIZE].eq(0).all()
    with pytest.raises(
        ValueError, match=r"lacks .* of a masked language model, so its loss would mean nothing"
    ):
        transformers_scorer(folder, torch.device("cpu"))


def test_the_head_of_a_classifier_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = hub.published_model("modernbert")
    state = hub.of_classifier(hub.state_of(model))
    imported = import_folder(hub.write_published(tmp_path / "hub", model, state), tmp_path / "imported")
    shown = capsys.readouterr().out
    assert "left out, because a masked language model does not use them: classifier\n" in shown
    assert "no decoder.bias in it: this part of" in shown
    with torch.no_grad():
        model.decoder.bias.zero_()
    assert max(differences(imported, model)) < 1e-5


@pytest.mark.parametrize("inner", ["", "0_Transformer"])
def test_folders_of_sentence_transformers(tmp_path: Path, inner: str) -> None:
    model = hub.published_model("modernbert")
    state = hub.without_head(hub.state_of(model))
    folder = tmp_path / "hub"
    hub.write_published(folder / inner if inner else folder, model, state)
    kinds = {inner: "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense"}
    content = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(content))
    imported = import_folder(folder, tmp_path / "imported")
    assert max(differences(imported, model, headless=True)) < 1e-5


def test_the_vocabulary_is_exported_as_it_was_published(tmp_path: Path) -> None:
    model = hub.published_model("bert")
    imported = import_folder(hub.write_published(tmp_path / "hub", model), tmp_path / "imported")
    weights, info = load_weights(imported)
    assert (info.model.vocab_size, len(weights["decoder.bias"])) == (320, 320)
    exported = export_checkpoint(imported, tmp_path / "exported")
    assert json.loads((exported / "config.json").read_text())["vocab_size"] == hub.VOCAB_SIZE
    theirs = AutoModelForMaskedLM.from_pretrained(exported)
    words = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(theirs.state_dict()[words], model.state_dict()[words])
    again, _ = load_weights(import_folder(exported, tmp_path / "again"))
    assert all(torch.equal(again[name], weights[name]) for name in weights)


def test_a_roberta_is_exported_as_a_bert(tmp_path: Path) -> None:
    model = hub.published_model("roberta")
    imported = import_folder(hub.write_published(tmp_path / "hub", model), tmp_path / "imported")
    exported = export_checkpoint(imported, tmp_path / "exported")
    theirs = AutoModelForMaskedLM.from_pretrained(exported).eval()
    ids = torch.tensor([[257, 40, 41, 42, 258]])
    with torch.no_grad():
        assert (theirs(ids).logits - model(ids).logits).abs().max() < 1e-5


def test_missing_fields_have_the_defaults_of_transformers(tmp_path: Path) -> None:
    model = hub.published_model("roberta", layer_norm_eps=1e-12, type_vocab_size=2)
    folder = hub.write_published(tmp_path / "hub", model)
    missing = ("layer_norm_eps", "type_vocab_size", "hidden_act", "initializer_range", "hidden_dropout_prob")
    hub.write_config(folder, model, **dict.fromkeys(missing))
    assert max(differences(import_folder(folder, tmp_path / "out"), model)) < 1e-5


def test_code_of_others_is_neither_run_nor_published(tmp_path: Path) -> None:
    model = hub.published_model("modernbert")
    folder = hub.write_published(tmp_path / "hub", model)
    names = {
        "AutoConfig": "evil.Config",
        "AutoModelForMaskedLM": "evil.Model",
        "AutoTokenizer": ["evil.Tokenizer", None],
    }
    hub.write_config(folder, model, auto_map=names)
    tokenizer_config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config | {"auto_map": names}))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    exported = export_checkpoint(import_folder(folder, tmp_path / "imported"), tmp_path / "exported")
    assert not (tmp_path / "ran").exists()
    for file in (*exported.iterdir(), *(tmp_path / "imported").iterdir()):
        assert file.name != "evil.py"
        assert file.is_dir() or "imported" in file.parts or b"evil" not in file.read_bytes()


# What is done to a folder of a BERT, and what the error then says.
def write(name: str, content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(content)


def config(**changes: Any) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(content | changes))

    return change


def state(change: Callable[[hub.State], Any]) -> Callable[[Path], Any]:
    def apply(folder: Path) -> None:
        state = hub.state_of(hub.published_model("bert"))
        change(state)
        hub.save_safetensors(folder, state)

    return apply


def a_bin(content: object) -> Callable[[Path], Any]:
    def apply(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        torch.save(content, folder / "pytorch_model.bin")

    return apply


def index(content: object) -> Callable[[Path], Any]:
    def apply(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))

    return apply


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 5\n"
PAGE = b"<!DOCTYPE html>\n<html><body>Not found</body></html>"
WORDS = "bert.embeddings.word_embeddings.weight"
FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pointer": (write("model.safetensors", POINTER), "the file is a Git LFS pointer; run `git lfs pull`"),
    "page": (write("model.safetensors", PAGE), r"model\.safetensors: the file is a web page; download the file"),
    "empty": (write("model.safetensors", b""), r"model\.safetensors: the file is empty; download it again"),
    "garbage": (write("model.safetensors", b"\x01" * 99), r"not a whole safetensors file \(.*\); download it again"),
    "truncated": (truncate, r"not a whole safetensors file \(.*\); download it again"),
    "config is a page": (write("config.json", PAGE), r"config\.json cannot be read as JSON: the file is a web page"),
    "config is a list": (write("config.json", b"[]"), "model_type is None; only models of these types can be read"),
    "config is deep": (write("config.json", b"[" * 100_000), r"config\.json cannot be read as JSON: "),
    "tokenizer_config is a list": (write("tokenizer_config.json", b"[]"), r"tokenizer_config\.json"),
    "bin is a list": (a_bin([1, 2]), r"pytorch_model\.bin: holds a list, not weights by their names; save the model's"),
    "bin is nested": (a_bin({"model": {}}), "holds a dict, not weights by their names"),
    "bin is empty": (a_bin({}), "do not fit config.json: embeddings.word_embeddings.weight is missing"),
    "index without files": (index({"weight_map": {"a": "x.safetensors"}}), "these weights do not fit config.json"),
    "index leads out": (index({"weight_map": {"a": "../x.safetensors"}}), "has no weight_map from weights to files"),
    "index is a list": (index([]), "has no weight_map from weights to files beside it"),
    "shard is missing": (
        index({"weight_map": dict.fromkeys(hub.state_of(hub.published_model("bert")), "model-1.safetensors")}),
        r"model-1\.safetensors does not exist, but the index beside it names it; download it too",
    ),
    "unknown architecture": (config(model_type="t5"), "'t5'; only .*: modernbert, bert, roberta, xlm-"),
    "type is a list": (config(model_type=["bert"]), r"model_type is \['bert'\]; only models of these types"),
    "activation": (config(hidden_act="relu"), "hidden_act is 'relu', supported is 'gelu'"),
    "text for a number": (config(hidden_size="32"), "hidden_size is '32', expected a whole number from 1"),
    "null for a number": (config(num_hidden_layers=None), "num_hidden_layers is None, expected a whole number"),
    "0 for a number": (config(num_attention_heads=0), "num_attention_heads is 0, expected a whole number from 1"),
    "float for a number": (config(vocab_size=283.0), "vocab_size is 283.0, expected a whole number from 1"),
    "too many layers": (config(num_hidden_layers=10**9), "num_hidden_layers is 1000000000, expected .* to 1,000"),
    "too wide": (config(hidden_size=2**30), r"word_embeddings\.weight is \[283, 32\], config\.json implies"),
    "infinite": (config(layer_norm_eps=float("inf")), "layer_norm_eps is inf, expected a number above 0"),
    "dropout": (config(hidden_dropout_prob="a"), "hidden_dropout_prob is 'a', expected a number from 0 to below 1"),
    "refused by Transformers alone": (config(use_cache=[1]), r"Transformers [0-9.]+ cannot load it: "),
    "missing": (
        state(lambda state: state.pop("bert.encoder.layer.1.attention.self.key.weight")),
        r"do not fit config\.json: bert\.encoder\.layer\.1\.attention\.self\.key\.weight is missing; download",
    ),
    "half a head": (
        state(lambda state: state.pop("cls.predictions.transform.dense.bias")),
        r"cls\.predictions\.transform\.dense\.bias is missing; download config\.json and the weights",
    ),
    "unknown": (
        state(lambda state: state.update({"bert.encoder.layer.2.output.dense.bias": torch.ones(32)})),
        r"bert\.encoder\.layer\.2\.output\.dense\.bias is unknown",
    ),
    "a name of two lines": (
        state(lambda state: state.update({"bert.encoder.a\nb": torch.ones(32)})),
        r"bert\.encoder\.a b is unknown",
    ),
    "another shape": (
        state(lambda state: state.update({"cls.predictions.bias": torch.ones(7)})),
        r"cls\.predictions\.bias is \[7\], config\.json implies \[283\]",
    ),
    "whole numbers": (
        state(lambda state: state.update({WORDS: torch.ones(283, 32, dtype=torch.int8)})),
        r"word_embeddings\.weight has numbers of type int8, expected floating point",
    ),
    "twice": (
        state(lambda state: state.update({WORDS.removeprefix("bert."): torch.ones(283, 32)})),
        "which are one weight; delete one of them",
    ),
    "untied": (
        state(lambda state: state.update({"cls.predictions.decoder.weight": torch.ones(283, 32)})),
        r"cls\.predictions\.decoder\.weight differs from bert\.embeddings\.word_embeddings\.weight; only models in",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published BERT, to be copied and spoilt."""
    return hub.write_published(tmp_path_factory.mktemp("hub") / "bert", hub.published_model("bert"))


@pytest.mark.parametrize("fault", FAULTS)
def test_one_line_says_what_is_wrong(
    tmp_path: Path, bert: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, message = FAULTS[fault]
    folder = Path(shutil.copytree(bert, tmp_path / "hub"))
    spoil(folder)
    assert cli.main(["import", str(folder), str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    with pytest.raises(ValueError, match=message):
        raise ValueError(line)
    assert not (tmp_path / "out").exists()


def test_settings_of_a_call_do_not_matter_unless_it_fails(
    tmp_path: Path, bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(bert, tmp_path / "hub"))
    config(return_dict=False, output_hidden_states=True)(folder)
    import_folder(folder, tmp_path / "imported")
    config(chunk_size_feed_forward=7)(folder)
    assert cli.main(["import", str(folder), str(tmp_path / "out")]) == 1
    assert "error: Transformers loads the model, but cannot run it: " in capsys.readouterr().err


def test_a_tar_of_the_first_torch(tmp_path: Path, bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(bert, tmp_path / "hub"))
    (folder / "model.safetensors").unlink()
    archive = shutil.make_archive(str(tmp_path / "weights"), "tar", bert)
    shutil.move(archive, folder / "pytorch_model.bin")
    assert cli.main(["import", str(folder), str(tmp_path / "out")]) == 2
    assert "in the tar format of torch before 0.2" in capsys.readouterr().err


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 70), st.integers(-(10**12), 10**12), st.floats(), st.text(max_size=4),
    st.sampled_from(["full_attention", "gelu", "silu", "default", 0.0, 0.1, 1, 2, 32, 64]),
    st.lists(st.sampled_from(["full_attention", "sliding_attention", 1, None]), max_size=3),
    st.dictionaries(
        st.sampled_from(["full_attention", "sliding_attention", "rope_theta", "rope_type", "factor"]),
        st.one_of(st.none(), st.floats(), st.text(max_size=3), st.fixed_dictionaries({"rope_theta": st.floats()})),
        max_size=2,
    ),
)  # fmt: skip


def check_any_config(folder: Path, data: st.DataObject, use: Callable[[Path], Any]) -> None:
    """Change some fields of the config.json in `folder` and use it: it works, or one line says why not."""
    file = folder / "config.json"
    text = file.read_text()
    content = json.loads(text)
    names = [*content, "global_rope_theta", "local_rope_theta", "global_attn_every_n_layers", "rope_scaling"]
    changes = data.draw(st.dictionaries(st.sampled_from(names), VALUES, min_size=1, max_size=3))
    refusal = None
    file.write_text(json.dumps(content | changes))
    try:
        use(folder)
    except ValueError as error:
        refusal = error
    finally:
        file.write_text(text)
    assert refusal is None or (is_ours(refusal) and len(str(refusal).splitlines()) == 1)


FUZZ = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@pytest.fixture(scope="module", params=["modernbert", "bert", "roberta"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published folder of each architecture."""
    return hub.write_published(tmp_path_factory.mktemp("fuzz") / "hub", hub.published_model(request.param))


@settings(max_examples=80, **FUZZ)
@given(data=st.data())
def test_any_config_is_read_or_refused_in_one_line(folder: Path, data: st.DataObject) -> None:
    check_any_config(folder, data, load_weights)


@pytest.mark.slow
@settings(max_examples=3_500, **FUZZ)
@given(data=st.data())
def test_any_of_10_000_configs_is_read_or_refused_in_one_line(folder: Path, data: st.DataObject) -> None:
    check_any_config(folder, data, load_weights)


@pytest.mark.slow
@settings(max_examples=300, **FUZZ)
@given(data=st.data())
def test_any_config_is_imported_or_refused_in_one_line(folder: Path, data: st.DataObject) -> None:
    def use(path: Path) -> None:
        out = path.parent / "out"
        try:
            import_folder(path, out)
        finally:
            shutil.rmtree(out, ignore_errors=True)

    check_any_config(folder, data, use)
