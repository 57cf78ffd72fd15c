import json

import pytest

from modernbert_train.checkpoints.checkpoint import save_weights
from modernbert_train.checkpoints.info import info_file, read_info
from modernbert_train.config import ModelConfig
from tests.helpers.weights import make_info

INFO = make_info(step=7, keep=True, merged="the mean of two", model=ModelConfig(mlp="gelu", bias=True))


@pytest.fixture
def checkpoint(tmp_path):
    return save_weights(tmp_path, {}, INFO)


def change(checkpoint, **fields):
    """Write other values into the JSON file; None takes a field out."""
    file = info_file(checkpoint)
    content = json.loads(file.read_text()) | {"json_sha256": None, "run": None} | fields
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def test_written_info_is_read(checkpoint):
    info = read_info(checkpoint)
    assert (info.step, info.keep, info.merged, info.model) == (7, True, "the mean of two", INFO.model)
    assert (info.weights_only, info.total_tokens, info.is_causal) == (True, None, False)
    assert (info.bytes, len(info.sha256)) == (checkpoint.stat().st_size, 64)


def test_files_of_older_versions_lack_newer_fields(checkpoint):
    change(checkpoint, objective=None, keep=None, merged=None, model={"hidden_size": 768, "norm_eps": 1})
    info = read_info(checkpoint)
    assert (info.objective, info.keep, info.merged) == ("mlm", False, None)
    assert info.model == ModelConfig(hidden_size=768, norm_eps=1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"step": None}, "step is missing; restore it from a copy, or use another checkpoint"),
        ({"step": "7"}, "step is '7', expected a whole number; restore"),
        ({"keep": 1}, "keep is 1, expected true or false; restore"),
        ({"tokens": True}, "tokens is True, expected a whole number"),
        ({"objective": "rtd"}, "objective is 'rtd', expected one of mlm, clm"),
        ({"total_tokens": 0.5}, "total_tokens is 0.5, expected a whole number or null"),
        ({"model": [1]}, r"model is \[1\], expected a JSON object"),
        ({"model": {"mlp": "relu3"}}, "model.mlp is 'relu3', expected one of geglu, "),
        (
            {"model": {"rank": 4}},
            "this version does not know model.rank; use the version of modernbert_train",
        ),
    ],
)
def test_a_wrong_field_is_named_with_its_file(checkpoint, fields, message):
    change(checkpoint, **fields)
    with pytest.raises(ValueError, match=rf"step-00000007\.json: {message}"):
        read_info(checkpoint)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_file_that_is_not_an_object(checkpoint, text):
    info_file(checkpoint).write_text(text)
    with pytest.raises(ValueError, match=r"step-00000007\.json.*restore it from a copy"):
        read_info(checkpoint)
