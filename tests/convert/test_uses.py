"""What `export` adds for other programs: the graph for ONNX Runtime, and the files of Sentence Transformers."""

import contextlib
import io
import json
import shutil
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    pipeline,
)

from modernbert_train import cli
from modernbert_train.checkpoints.source import FailedCheck
from modernbert_train.convert import export_checkpoint, onnx_graph
from tests.helpers.exported import write_tokenizer
from tests.helpers.hub import EXTRAS, SIZES

TEXTS = ["a", "It opens at nine.", "the window is 16 tokens wide, and this text is longer than that"]
WITH_TOKEN_TYPES = ("bert", "deberta-v2")
EMBEDDING_FILES = {
    "1_Pooling/config.json",
    "config_sentence_transformers.json",
    "modules.json",
    "sentence_bert_config.json",
}


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run_onnx(folder: Path, texts: list[str] | list[tuple[str, str]]) -> tuple[str, Tensor, dict[str, Tensor]]:
    """Return the name of the output of a graph, its value for some texts, and the inputs."""
    inputs = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    session = onnxruntime.InferenceSession(str(folder / "onnx/model.onnx"))
    names = [node.name for node in session.get_inputs()]
    (output,) = session.get_outputs()
    (value,) = session.run(None, {name: inputs[name].numpy() for name in names})
    return output.name, torch.from_numpy(value), {name: inputs[name] for name in names}


def write_saved(folder: Path, model_type: str, kind: type, **fields: object) -> Path:
    """A folder as Transformers saves it, of random weights."""
    config = CONFIG_MAPPING[model_type](**(SIZES | EXTRAS.get(model_type, {}) | fields))
    torch.manual_seed(0)
    model = kind.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    tokens: dict[str, object] = {f"{role}_token": f"[{role.upper()}]" for role in ("cls", "sep", "pad")}
    if model_type in WITH_TOKEN_TYPES:
        tokens["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | tokens))
    return folder


@pytest.fixture(scope="module")
def embedding(tiny_exported, tmp_path_factory):
    """A run exported with everything for embeddings, and what the command prints."""
    out, printed = tmp_path_factory.mktemp("uses") / "out", io.StringIO()
    run = str(tiny_exported.parent / "run")
    with contextlib.redirect_stdout(printed):
        assert cli.main(["export", run, str(out), "--onnx", "--sentence-transformers"]) == 0
    return out, printed.getvalue()


def test_files_are_added_to_the_plain_export(embedding, tiny_exported):
    out, printed = embedding
    titles = [line.partition(":")[0] for line in printed.splitlines() if not line.startswith(" ")]
    assert titles[1:] == ["modules.json", "onnx/model.onnx", "exported"]
    assert printed.count("max |difference|") == 4 + 1 + 4
    files, plain = files_in(out), files_in(tiny_exported)
    assert set(files) == {*plain, *EMBEDDING_FILES, "onnx/model.onnx"}, "no second copy of the weights"
    assert all(files[name] == content for name, content in plain.items() if name != "README.md")
    assert len(pipeline("fill-mask", str(out))("a [MASK]")) == 5, "the masked-LM head is still there"
    # What text-embeddings-inference requires: router/src/lib.rs, PoolConfig and STConfig.
    pooling = json.loads(files["1_Pooling/config.json"])
    assert {name: pooling[f"pooling_mode_{name}"] for name in ("cls_token", "mean_tokens", "max_tokens")} == {
        "cls_token": False,
        "mean_tokens": True,
        "max_tokens": False,
    }
    assert pooling["pooling_mode_mean_sqrt_len_tokens"] is False
    assert json.loads(files["sentence_bert_config.json"])["max_seq_length"] == 256


def test_every_program_computes_the_same_vectors(embedding, no_network):
    out, _ = embedding
    name, hidden, inputs = run_onnx(out, TEXTS)
    assert name == "last_hidden_state"
    mask = inputs["attention_mask"][..., None]
    with torch.no_grad():
        expected = AutoModel.from_pretrained(out).eval()(**inputs).last_hidden_state
    assert ((hidden - expected) * mask).abs().max() <= 1e-4
    model = SentenceTransformer(str(out), device="cpu")
    means = (expected * mask).sum(1) / mask.sum(1)
    torch.testing.assert_close(model.encode(TEXTS, convert_to_tensor=True), means, atol=1e-5, rtol=0)
    assert model.max_seq_length == 256
    graph = onnx.load(out / "onnx/model.onnx")
    assert [entry.version for entry in graph.opset_import if not entry.domain] == [18]


@pytest.mark.parametrize("kind", [SentenceTransformer, MultiVectorEncoder])
@pytest.mark.parametrize("with_files", [False, True])
def test_saved_by_sentence_transformers_it_gives_the_same(
    embedding, tiny_exported, tmp_path, kind, with_files
):
    torch.manual_seed(0)  # of the projection of MultiVectorEncoder
    model = kind(str(embedding[0] if with_files else tiny_exported), device="cpu")
    model.save(str(tmp_path / "saved"), create_model_card=False)
    again = kind(str(tmp_path / "saved"), device="cpu")
    for one, other in zip(model.encode(TEXTS), again.encode(TEXTS), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_files_of_a_newer_version_are_replaced(tiny_exported, tmp_path):
    """A trained embedding model, which version 6 has saved: its pooling, prompts and length stay."""
    modules = [
        Transformer(str(tiny_exported), processor_kwargs={"model_max_length": 40}),
        Pooling(32, pooling_mode="cls"),
        Normalize(),
    ]
    model = SentenceTransformer(modules=modules, device="cpu", prompts={"query": "find: "})
    model.save(str(tmp_path / "saved"), create_model_card=False)
    assert "pooling_mode_cls_token" not in json.loads((tmp_path / "saved/1_Pooling/config.json").read_text())

    out = export_checkpoint(tmp_path / "saved", tmp_path / "out", sentence_transformers=True)

    pooling = json.loads((out / "1_Pooling/config.json").read_text())
    assert [name for name, value in pooling.items() if value is True] == [
        "pooling_mode_cls_token",
        "include_prompt",
    ]
    assert json.loads((out / "sentence_bert_config.json").read_text())["max_seq_length"] == 40
    again = SentenceTransformer(str(out), device="cpu")
    np.testing.assert_allclose(again.encode_query(TEXTS), model.encode_query(TEXTS), atol=1e-6)
    assert np.abs(again.encode_query(TEXTS) - again.encode_document(TEXTS)).max() > 0.01


def test_a_graph_that_differs_leaves_nothing(embedding, tiny_exported, tmp_path, monkeypatch):
    """The graph of other weights: one of them is a little larger."""

    def export_another(graph: object, inputs: object, file: Path) -> None:
        shutil.copy(embedding[0] / "onnx/model.onnx", file)

    monkeypatch.setattr(onnx_graph, "_export", export_another)
    shutil.copytree(tiny_exported, tmp_path / "model")
    weights = load_file(tmp_path / "model/model.safetensors")
    weights["model.layers.1.mlp.Wo.weight"] *= 1.01
    save_file(weights, tmp_path / "model/model.safetensors", {"format": "pt"})
    with pytest.raises(
        FailedCheck, match=r"last_hidden_state of ONNX Runtime differ from Transformers' by .*e-0"
    ):
        export_checkpoint(tmp_path / "model", tmp_path / "out", onnx=True, sentence_transformers=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_hugging_face_folder_is_copied_as_it_is(tmp_path):
    """A fine-tuned classifier, beside whose files there are others."""
    labels = {0: "no", 1: "yes"}
    kind = AutoModelForSequenceClassification
    folder = write_saved(tmp_path / "model", "bert", kind, id2label=labels)
    code = json.loads((folder / "config.json").read_text()) | {"auto_map": {"AutoModel": "code.Model"}}
    (folder / "config.json").write_text(json.dumps(code))
    for name in ("code.py", "optimizer.pt", "tf_model.h5", "checkpoint-1/model.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()

    out = export_checkpoint(folder, tmp_path / "out", sentence_transformers=True)

    files = files_in(out)
    assert set(files) == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        *EMBEDDING_FILES,
    }
    assert files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert "auto_map" not in json.loads(files["config.json"])
    classify, again = pipeline("text-classification", str(folder)), pipeline("text-classification", str(out))
    assert classify(TEXTS) == again(TEXTS)
    assert {entry["label"] for entry in again(TEXTS)} <= {"no", "yes"}


def test_what_cannot_be_exported(tiny_exported, tmp_path, capsys, monkeypatch):
    folder = shutil.copytree(tiny_exported, tmp_path / "model")

    def error_of(model: Path, *options: str) -> str:
        assert cli.main(["export", str(model), str(tmp_path / "out"), *options]) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    assert error_of(folder, "--onnx", "--fill", "a [MASK]") == (
        f"error: --fill: {folder} is copied as it is; leave out --fill\n"
    )
    model = MultiVectorEncoder(str(folder), device="cpu")
    model.save(str(tmp_path / "colbert"), create_model_card=False)
    assert "Dense, MultiVectorMask, Normalize: no files can be written" in error_of(
        tmp_path / "colbert", "--sentence-transformers"
    )
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["MyModel"]}))
    assert "architectures is ['MyModel'], of which Transformers" in error_of(folder, "--onnx")
    (folder / "config.json").write_text(
        json.dumps(config | {"architectures": ["ModernBertForTokenClassification"]})
    )
    assert "lacks weights of ModernBertForTokenClassification: classifier.bias, " in error_of(
        folder, "--onnx"
    )

    def without(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("modernbert_train.common.extras.version", without)
    assert "onnx and onnxscript and onnxruntime are not installed" in error_of(folder, "--onnx")
    assert "error: sentence-transformers is not installed" in error_of(folder, "--sentence-transformers")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "kind"),
    [
        ("modernbert", AutoModelForMaskedLM),
        ("modernbert", AutoModelForSequenceClassification),
        ("modernbert", AutoModelForTokenClassification),
        ("modernbert", AutoModel),
        ("bert", AutoModelForSequenceClassification),
        ("roberta", AutoModelForMaskedLM),
        ("deberta-v2", AutoModelForSequenceClassification),
    ],
)
def test_graphs_of_every_kind(tmp_path, model_type, kind):
    folder = write_saved(tmp_path / "model", model_type, kind)
    out = export_checkpoint(folder, tmp_path / "out", onnx=True)
    pairs = [(text, "or not") for text in TEXTS]
    name, value, inputs = run_onnx(out, pairs)
    assert name == ("last_hidden_state" if kind is AutoModel else "logits")
    assert ("token_type_ids" in inputs) == (model_type in WITH_TOKEN_TYPES)
    with torch.no_grad():
        expected = kind.from_pretrained(folder).eval()(**inputs)[name]
    if expected.ndim == 3:
        real = inputs["attention_mask"].bool()
        value, expected = value[real], expected[real]
    assert (value - expected).abs().max() <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("is_large", [False, True])
def test_the_graph_of_a_run_gives_logits(tiny_exported, tmp_path, monkeypatch, is_large):
    if is_large:
        monkeypatch.setattr(onnx_graph, "_LARGEST_FILE_BYTES", 1_000)
    out = export_checkpoint(tiny_exported.parent / "run", tmp_path / "out", onnx=True)
    assert (out / "onnx/model.onnx.data").exists() == is_large
    name, logits, inputs = run_onnx(out, TEXTS)
    with torch.no_grad():
        expected = AutoModelForMaskedLM.from_pretrained(out).eval()(**inputs).logits
    real = inputs["attention_mask"].bool()
    assert name == "logits"
    assert (logits - expected)[real].abs().max() <= 1e-4
