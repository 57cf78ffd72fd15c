import pytest

from modernbert_train.retrieval import scoring
from modernbert_train.retrieval.collection import from_pairs
from modernbert_train.retrieval.lexical import Bm25
from modernbert_train.retrieval.scoring import LexicalSearch, hub_tasks, local_task, score


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks of mteb have the data of a local one."""

    def load(task: object) -> None:
        if not task.data_loaded:  # type: ignore[attr-defined]
            local = local_task("local", from_pairs("local", [("a lion", "the lion"), ("a bear", "the bear")]))
            splits, subsets = task.eval_splits, task.hf_subsets  # type: ignore[attr-defined]
            task.dataset = {  # type: ignore[attr-defined]
                subset: {split: dict(local.dataset["default"]["test"]) for split in splits}
                for subset in subsets
            }
            task.data_loaded = True  # type: ignore[attr-defined]

    monkeypatch.setattr(scoring, "_load", load)


def test_tasks_of_mteb_are_scored_by_test_split_and_subset(no_download: None) -> None:
    tasks = hub_tasks(["MultiLongDocRetrieval/en", "COIRCodeSearchNetRetrieval"])
    # One of two splits and of thirteen languages; all of six languages.
    for name, num_subsets in {"MultiLongDocRetrieval/en": 1, "COIRCodeSearchNetRetrieval": 6}.items():
        assert not tasks[name].data_loaded
        found = score(LexicalSearch("BM25", Bm25), tasks[name])
        assert found.means == {"ndcg@10": 1.0, "mrr@10": 1.0, "recall@100": 1.0}
        assert found.ndcg == [1.0, 1.0] * num_subsets


@pytest.mark.slow
def test_a_benchmark_of_mteb_is_its_tasks_and_an_aggregate_their_mean(no_download: None) -> None:
    tasks = hub_tasks(["BEIR"])
    assert len(tasks) == 15
    assert score(LexicalSearch("BM25", Bm25), tasks["CQADupstackRetrieval"]).ndcg == [1.0, 1.0] * 12


@pytest.mark.slow  # mteb builds its list of benchmarks
def test_what_mteb_does_not_have_or_cannot_load(no_network: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    for name, message in {
        "SciFacts": "mteb has no retrieval task or benchmark 'SciFacts'; did you mean SciFact[?]",
        "MultiLongDocRetrieval/xx": "task MultiLongDocRetrieval has no subset 'xx'; it has ar, de, en,",
        "SciFact": r"the data of SciFact cannot be loaded \(.*\); check the network, or download it",
    }.items():
        with pytest.raises(ValueError, match=message):
            hub_tasks([name])
