"""Exports opened by other versions of Transformers and by other programs, which are installed for this test.

Only the packages named are installed, without their dependencies, into a folder that stands before this environment:
torch and NumPy are its own.
"""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from modernbert_train.checkpoints.checkpoint import save_weights
from modernbert_train.cli import main
from modernbert_train.convert.export import export_checkpoint
from modernbert_train.store.tokenizer import load_tokenizer_info
from tests.convert.test_export import TINY_BERT
from tests.helpers.exported import SPECIALS, TINY, random_weights, write_tokenizer
from tests.helpers.tasks import write_suite
from tests.helpers.weights import make_info

pytestmark = pytest.mark.slow

# The oldest with ModernBERT, the last of 4, the first of 5, and the newest, each with the versions of its libraries
# that it asks for.
TRANSFORMERS = {
    "4.48": ("transformers==4.48.3", "tokenizers==0.21.4", "huggingface_hub==0.36.2"),
    "4.57": ("transformers==4.57.6", "tokenizers==0.22.1", "huggingface_hub==0.36.2"),
    "5.0": ("transformers==5.0.0", "tokenizers==0.22.2", "huggingface_hub==1.3.7"),
    "newest": ("transformers", "tokenizers", "huggingface_hub"),
}
# Those that go with each Transformers 4, with its `datasets`; the last reads the graph.
OF_5_7 = ("sentence-transformers==5.7.0", "datasets==4.4.1", *TRANSFORMERS["4.57"])
SENTENCE_TRANSFORMERS = {
    "3.4": (("sentence-transformers==3.4.1", "datasets==4.4.1", *TRANSFORMERS["4.48"]), "torch"),
    "5.7": (OF_5_7, "torch"),
    "5.7 with ONNX": ((*OF_5_7, "optimum==2.1.0", "optimum-onnx==0.1.0"), "onnx"),
}
TEXTS = ("It opens at [MASK].", "  two spaces,\n\ta tab", "één 漢字 🤖", "see [ENT] and [SEP]")
DOCUMENTATION = Path(__file__).parents[2] / "docs/exported-models.md"

OPEN = """
import json, sys, numpy, torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline
folder, texts, logits = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForMaskedLM.from_pretrained(folder).eval()
with torch.no_grad():
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    numpy.save(logits, model(**batch).logits[batch["attention_mask"].bool()].numpy())
assert model.dtype == torch.float32
assert len(pipeline("fill-mask", folder)(texts[0])) == 5
specials = sorted(tokenizer.all_special_tokens + list(getattr(tokenizer, "extra_special_tokens", [])))
print(json.dumps({"ids": [tokenizer(text)["input_ids"] for text in texts], "specials": sorted(set(specials))}))
"""

CLASSIFY = """
import json, sys, numpy, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
folder, texts, logits = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
with torch.no_grad():
    batch = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    numpy.save(logits, model(**batch).logits.numpy())
print(json.dumps([found["label"] for found in pipeline("text-classification", folder)(texts)]))
"""
EMBED = """
import json, sys, numpy
from sentence_transformers import SentenceTransformer
folder, texts, backend, vectors = sys.argv[1:]
model = SentenceTransformer(folder, device="cpu", backend=backend)
numpy.save(vectors, model.encode(json.loads(texts)))
"""


def bytes_with_prefix_space(folder: Path) -> None:
    """A space before the first word, special tokens listed as Transformers 5 lists them, and no template."""
    write_tokenizer(folder, with_template=False)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.add_special_tokens([AddedToken("[ENT]", special=True)])
    tokenizer.enable_truncation(4)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "TokenizersBackend",
        "backend": "tokenizers",
        "extra_special_tokens": ["[ENT]"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def wordpiece_without_added_tokens(folder: Path) -> None:
    vocab = {token: number for number, token in enumerate([*SPECIALS, "[ENT]", *"itopensatw,", "##t", "##o"])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = (
        normalizers.BertNormalizer(),
        pre_tokenizers.BertPreTokenizer(),
    )
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "BertTokenizer", "do_lower_case": true}'
    )


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Exported folders: ModernBERT and BERT, with two tokenizers that lack what export adds."""
    folder, exported = tmp_path_factory.mktemp("exports"), []
    for model, write in (
        (TINY, bytes_with_prefix_space),
        (TINY, wordpiece_without_added_tokens),
        (TINY_BERT, wordpiece_without_added_tokens),
    ):
        run = folder / f"run{len(exported)}"
        write(run)
        info = load_tokenizer_info(run)
        config = dataclasses.replace(model, vocab_size=info.vocab_size)
        save_weights(
            run, random_weights(config), make_info(model=config, tokenizer_fingerprint=info.fingerprint)
        )
        exported.append(export_checkpoint(run, folder / f"export{len(exported)}"))
    return exported


@pytest.fixture(scope="module")
def tuned(tiny_exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuned classifier."""
    folder = tmp_path_factory.mktemp("tuned")
    assert main(["finetune", str(tiny_exported), f"{write_suite(folder)}:letters", str(folder / "out")]) == 0
    return folder / "out"


def install(packages: tuple[str, ...], folder: Path) -> dict[str, str]:
    """Install packages into a folder; return an environment in which they stand before those of this one."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(folder),
        *packages,
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if result.returncode:
        pytest.skip(
            f"{' '.join(packages)} cannot be installed here: {result.stderr.strip().splitlines()[-1]}"
        )
    return {**os.environ, "PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1"}


def run_python(script: str, *arguments: str, env: dict[str, str], cwd: Path) -> str:
    command = [sys.executable, "-W", "ignore", "-c", script, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env=env, cwd=cwd, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("version", TRANSFORMERS)
def test_other_versions_give_the_same_ids_and_logits(
    exports: list[Path], tuned: Path, tmp_path: Path, version: str
) -> None:
    env = install(TRANSFORMERS[version], tmp_path / "packages")
    for folder in exports:
        out = run_python(
            OPEN, str(folder), json.dumps(TEXTS), str(tmp_path / "logits.npy"), env=env, cwd=tmp_path
        )
        tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForMaskedLM.from_pretrained(folder)
        found = json.loads(out.splitlines()[-1])
        assert found["ids"] == [tokenizer(text)["input_ids"] for text in TEXTS], folder
        backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
        assert found["ids"] == [backend.encode(text).ids for text in TEXTS], folder
        assert found["specials"] == sorted({*tokenizer.all_special_tokens, *tokenizer.extra_special_tokens})
        batch = tokenizer(list(TEXTS), padding=True, return_tensors="pt")
        with torch.no_grad():
            expected = model.eval()(**batch).logits[batch["attention_mask"].bool()]
        np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected.numpy(), atol=1e-4)

    logits = tmp_path / "logits.npy"
    out = run_python(CLASSIFY, str(tuned), json.dumps(TEXTS), str(logits), env=env, cwd=tmp_path)
    batch = AutoTokenizer.from_pretrained(tuned)(list(TEXTS), padding=True, return_tensors="pt")
    classifier = AutoModelForSequenceClassification.from_pretrained(tuned).eval()
    with torch.no_grad():
        expected = classifier(**batch).logits
    np.testing.assert_allclose(np.load(logits), expected.numpy(), atol=1e-4)
    labels = [classifier.config.id2label[label] for label in expected.argmax(-1).tolist()]
    assert json.loads(out.splitlines()[-1]) == labels


@pytest.mark.parametrize("version", SENTENCE_TRANSFORMERS)
def test_other_versions_of_sentence_transformers_give_the_same_vectors(
    exports: list[Path], tmp_path: Path, version: str
) -> None:
    packages, backend = SENTENCE_TRANSFORMERS[version]
    folder = export_checkpoint(
        exports[0], tmp_path / "out", onnx=backend == "onnx", sentence_transformers=True
    )
    env = install(packages, tmp_path / "packages")
    arguments = str(folder), json.dumps(TEXTS), backend, str(tmp_path / "vectors.npy")
    run_python(EMBED, *arguments, env=env, cwd=tmp_path)
    expected = SentenceTransformer(str(folder), device="cpu").encode(list(TEXTS))
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), expected, atol=1e-4)


@pytest.mark.parametrize(
    "heading", ["Transformers", "Fine-tuning", "Sentence Transformers", "ColBERT", "ONNX Runtime"]
)
def test_the_code_of_the_documentation_runs(exports: list[Path], tmp_path: Path, heading: str) -> None:
    section = re.search(rf"^## {heading}\n.*?```python\n(.*?)```", DOCUMENTATION.read_text(), re.S | re.M)
    assert section is not None
    folder = tmp_path / "exported"
    export_checkpoint(exports[0], folder / "my-embedding", sentence_transformers=True)
    (folder / "my-encoder").symlink_to(exports[0])
    if heading == "ONNX Runtime":
        export_checkpoint(exports[0], folder / "my-encoder-onnx", onnx=True)
    run_python(section[1], env={**os.environ, "HF_HUB_OFFLINE": "1"}, cwd=tmp_path)
