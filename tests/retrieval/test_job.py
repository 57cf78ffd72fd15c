import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from modernbert_train.cli import main
from modernbert_train.tasks.results import JobResult, read_predictions, read_result

pytestmark = pytest.mark.usefixtures("no_network")

TEXTS = ["Where is the old lion?", "the green rocket"]


def retrieve(model: Path, reference: str, out: Path, *arguments: str) -> JobResult:
    assert main(["retrieve", str(model), reference, str(out), *arguments]) == 0
    return read_result(out)


def test_single_vector(tiny_exported: Path, suite: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    before = retrieve(tiny_exported, f"{suite}:pairs", tmp_path / "before", "retrieval.steps=0")
    after = retrieve(tiny_exported, f"{suite}:pairs", tmp_path / "after")
    assert (before.step, after.step, after.seed, after.kept) == (0, 6, 3, "last")
    assert after.num_rows == {"train": 20, "valid": 20}
    assert list(after.scores) == ["ndcg@10", "mrr@10", "recall@100"]
    assert after.scores["recall@100"] == {"valid": 1.0}
    assert after.score > before.score
    assert after.score == pytest.approx(read_predictions(tmp_path / "after")["valid.scores"].mean(), abs=1e-5)
    model = SentenceTransformer(str(tmp_path / "after"), device="cpu")
    assert (model[0].query_length, model[0].document_length) == (32, 48)
    # The folder is the model that was scored, and a model of another job.
    other = tmp_path / "other"
    again = retrieve(tmp_path / "after", f"{suite}:pairs", other, "retrieval.steps=0")
    assert again.scores == after.scores
    other_model = SentenceTransformer(str(other), device="cpu")
    torch.testing.assert_close(
        model.encode_query(TEXTS, convert_to_tensor=True),
        other_model.encode_query(TEXTS, convert_to_tensor=True),
        atol=1e-6,
        rtol=0,
    )


def test_multi_vector_in_parts(tiny_exported: Path, suite: Path, tmp_path: Path) -> None:
    """A batch that is computed in parts gives the same model; a multi-vector folder opens, and opens in a job."""
    from sentence_transformers import MultiVectorEncoder

    task, options = f"{suite}:pairs", ("--multi-vector", "retrieval.steps=3")
    found = [
        retrieve(tiny_exported, task, tmp_path / name, *options, f"micro_batch_tokens={tokens}")
        for name, tokens in (("whole", 10_000), ("parts", 150))
    ]
    assert found[0].details["losses"] == pytest.approx(found[1].details["losses"], rel=1e-3)
    whole, parts = (MultiVectorEncoder(str(tmp_path / name), device="cpu") for name in ("whole", "parts"))
    for encode in ("encode_query", "encode_document"):
        for one, other in zip(getattr(whole, encode)(TEXTS), getattr(parts, encode)(TEXTS), strict=True):
            assert one.shape[1] == 16
            torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    again = retrieve(tmp_path / "whole", task, tmp_path / "again", "--multi-vector", "retrieval.steps=0")
    assert again.scores == found[0].scores
    assert main(["retrieve", str(tmp_path / "whole"), task, str(tmp_path / "single")]) == 2


def test_trained_on_one_task_and_scored_on_two(
    tiny_exported: Path, suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a run folder, and beside BM25, which finds each document by its words."""
    result = retrieve(
        tiny_exported.parent / "run", f"{suite}:both", tmp_path / "out", "max_tokens=16", "precision=bf16"
    )
    # One query of beir has no relevant document.
    assert result.num_rows == {"train": 20, "pairs": 20, "beir": 19}
    assert result.details["precision"] == "bf16"
    assert result.details["num_documents"] == {"pairs": 20, "beir": 20}
    assert result.cut_share == {"train": 1.0, "pairs": 1.0, "beir": 1.0}
    assert list(result.details["baselines"]) == ["BM25", "TF-IDF cosine"]
    assert result.details["baselines"]["BM25"]["ndcg@10"] == {"pairs": 1.0, "beir": 1.0}
    assert len(read_predictions(tmp_path / "out")["beir.scores"]) == 19
    shown = capsys.readouterr().out
    assert re.search(r"^beir +BM25 +1\.000 +1\.000 +1\.000$", shown, re.MULTILINE)
    assert "cut at 16 tokens: 100% of train, 100% of pairs, 100% of beir" in shown


def test_random_twin_has_other_weights(tiny_exported: Path, suite: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    assert retrieve(tiny_exported, f"{suite}:beir", tmp_path / "twin", "random_twin=true").random_twin
    own, twin = (load_file(folder / "model.safetensors") for folder in (tiny_exported, tmp_path / "twin"))
    assert twin.keys() == {name.removeprefix("model.") for name in own if name.startswith("model.")}
    assert not any(torch.equal(weight, own[f"model.{name}"]) for name, weight in twin.items())


@pytest.mark.parametrize("loss", ["cosent", "cosine"])
def test_similarity_of_sentences(tiny_exported: Path, suite: Path, tmp_path: Path, loss: str) -> None:
    found = {
        steps: retrieve(
            tiny_exported,
            f"{suite}:similar",
            tmp_path / str(steps),
            f"retrieval={{steps: {steps}, pair_loss: {loss}}}",
        )
        for steps in (0, 8)
    }
    assert found[8].score > found[0].score
    assert (found[8].kind, found[8].metric, found[8].num_rows) == (
        "regression",
        "spearman",
        {"train": 20, "valid": 20},
    )
    predictions = read_predictions(tmp_path / "8")
    correlation = np.corrcoef(predictions["valid.predictions"], predictions["valid.labels"])[0, 1]
    assert found[8].scores["pearson"]["valid"] == pytest.approx(correlation, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["MODEL", "SUITE:pear"], "there is no task 'pear'; did you mean pairs[?]"),
        (["no/model", "SUITE:beir"], "no/model: there is no such path, and the Hugging Face hub"),
        (["MODEL", "SUITE:beir", "--multi-vector", "retrieval.mteb=[SciFacts]"], "only one of"),
        (["MODEL", "SUITE:similar", "--multi-vector"], "by the cosine of their vectors: leave --multi-vector out"),
        (["MODEL", "SUITE:similar", "text=[a]"], "modernbert finetune"),
        (["MODEL", "SUITE:pairs", "text=[query, code]"], "row 1: no text in column 'code', .* are query, text, id"),
        (["MODEL", "SUITE:pairs", "retrieval.hard_negatives=20"], "have 20 documents, up to 1 of them for one query"),
        (["MODEL", "SUITE:both", "retrieval.train_on=[beir]"], "train_on: task beir has no pairs to train on"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_a_line(
    arguments: list[str],
    message: str,
    tiny_exported: Path,
    suite: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [word.replace("MODEL", str(tiny_exported)).replace("SUITE", str(suite)) for word in arguments]
    assert main(["retrieve", *words]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.count("\n") == 1
    assert list(Path().iterdir()) == []


def test_a_loss_that_is_not_finite_ends_the_job(
    tiny_exported: Path, suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["learning_rate=1e30", "gradient_clip_norm=null", "retrieval.steps=4"]
    assert main(["retrieve", str(tiny_exported), f"{suite}:pairs", "out", *options]) == 1
    assert re.search(
        "pairs: the loss is NaN or infinite within 4 steps; lower learning_rate", capsys.readouterr().err
    )
    assert not Path("out").exists()


def test_a_folder_that_cannot_be_opened(
    tiny_exported: Path, suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_exported, "broken")
    Path("broken/model.safetensors").write_bytes(b"no weights")
    assert main(["retrieve", "broken", f"{suite}:beir", "out"]) == 2
    assert re.search(r"broken: sentence-transformers \S+ cannot open it: ", capsys.readouterr().err)
