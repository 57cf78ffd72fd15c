import pytest

from modernbert_train.config import load_recipe
from modernbert_train.config.shipped import find_yaml
from tests.helpers.little_recipe import YAML, write

SIZE = "model: {vocab_size: 128, hidden_size: 8, num_attention_heads: 2, max_position_embeddings: 64}\n"


def test_a_file_in_the_folder_wins_over_one_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = find_yaml("yamls/models/tiny.yaml")
    assert shipped.is_absolute()
    own = write(tmp_path, SIZE, "yamls/models/tiny.yaml")
    assert find_yaml("yamls/models/tiny.yaml").resolve() == own
    assert find_yaml("yamls/models/tiny.yaml", tmp_path / "elsewhere") == shipped


def test_a_recipe_of_any_folder_includes_a_shipped_model(tmp_path):
    without = YAML.replace(SIZE, "")
    assert without != YAML
    recipe = load_recipe(write(tmp_path, "include: yamls/models/bert-quickstart.yaml\n" + without))
    assert recipe.model.positions == "learned"
    recipe = load_recipe(write(tmp_path, YAML), ["include=yamls/models/tiny.yaml"])
    assert recipe.model.hidden_size > 8


def test_a_name_that_neither_has(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="there is no such file, neither in") as error:
        load_recipe("yamls/pretrain/modernbert-bas.yaml")
    assert str(error.value).startswith("yamls/pretrain/modernbert-bas.yaml: ")
    assert str(tmp_path) in str(error.value)
    assert str(error.value).endswith("; did you mean yamls/pretrain/modernbert-base.yaml?")
    path = write(tmp_path, "include: yamls/models/tinny.yaml\n" + YAML)
    with pytest.raises(
        ValueError, match=r"tinny\.yaml \(included by .*little\.yaml\): there is no such file, neither"
    ):
        load_recipe(path)
