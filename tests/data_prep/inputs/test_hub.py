import datasets
import pyarrow
import pyarrow.parquet
import pytest

from data_prep.inputs.files import resolve_inputs
from data_prep.inputs.readers import LeftOut
from tests.helpers.inputs import read
from tests.helpers.texts import TRICKY_TEXTS


def test_saved_dataset(tmp_path):
    datasets.Dataset.from_dict({"text": TRICKY_TEXTS}).save_to_disk(tmp_path / "saved")
    assert resolve_inputs([str(tmp_path / "saved")]).items == [str(tmp_path / "saved")]
    assert read(tmp_path / "saved") == TRICKY_TEXTS


def test_damaged_saved_dataset_is_named(tmp_path):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved/state.json").write_text("{}")
    with pytest.raises(ValueError, match="saved: cannot be loaded"):
        read(tmp_path / "saved")
    left_out = LeftOut("skip")
    assert read(tmp_path / "saved", left_out) == []
    assert left_out.counts == {"unreadable_files": 1}


def test_hub_names_are_streamed(tmp_path):
    """datasets accepts a folder as a name, so no network is needed."""
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "test"):
        texts = [f"{split} {text}" for text in TRICKY_TEXTS[:3]]
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), folder / f"{split}.parquet")
    assert read(f"hf:{folder}") == [f"train {text}" for text in TRICKY_TEXTS[:3]]
    assert read(f"hf:{folder}:test") == [f"test {text}" for text in TRICKY_TEXTS[:3]]
    assert read(f"hf:{folder}:default:test") == [f"test {text}" for text in TRICKY_TEXTS[:3]]
    with pytest.raises(ValueError, match=r"hf:.*:dev: cannot be loaded"):
        read(f"hf:{folder}:dev")
    with pytest.raises(ValueError, match="row 1: has no field 'body'; fields: text"):
        read(f"hf:{folder}", text_field="body")
    with pytest.raises(
        ValueError, match=r"must be hf:NAME\[@REVISION\], optionally with :SPLIT or :CONFIG:SPLIT"
    ):
        read("hf:a:b:c:d")


def test_a_revision_of_a_hub_dataset(monkeypatch):
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((*args, kwargs))
        return [{"text": "a"}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read("hf:some/name@1a2b:config:test") == ["a"]
    assert asked == [("some/name", "config", {"split": "test", "streaming": True, "revision": "1a2b"})]
