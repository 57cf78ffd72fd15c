import dataclasses
import json
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
import yaml

from modernbert_train.checkpoints import provenance
from modernbert_train.checkpoints.provenance import (
    check_unchanged,
    code_hash,
    git_commit,
    prepare_run_folder,
    wandb_id,
)
from modernbert_train.config import load_recipe
from modernbert_train.config.schema import MODEL_SWITCHES
from tests.helpers.little_recipe import a_phase, a_recipe
from tests.helpers.stores import make_tokenizer


@pytest.fixture
def tokenizer(tmp_path):
    info = make_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text("{}")
    return info


@pytest.fixture
def run(tmp_path, tokenizer):
    """A run folder that was begun."""
    prepare_run_folder(tmp_path / "run", a_recipe(), tokenizer, "abc", world_size=2, fresh=True)
    return tmp_path / "run"


def launches(run):
    return json.loads((run / "provenance.json").read_text())["launches"]


def test_files_beside_the_checkpoints(run, tokenizer):
    names = {"recipe.yaml", "provenance.json", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in run.iterdir()} == names
    assert load_recipe(run / "recipe.yaml") == dataclasses.replace(a_recipe(), run_folder="runs/little")
    assert (run / "tokenizer.json").read_bytes() == (tokenizer.path / "tokenizer.json").read_bytes()
    (launch,) = launches(run)
    assert launch["world_size"] == 2
    assert launch["command"] == sys.argv
    assert launch["packages"]["numpy"] == numpy.__version__
    assert torch.__version__.startswith(launch["packages"]["torch"])


def test_every_launch_is_kept(run, tokenizer):
    prepare_run_folder(run, a_recipe(), tokenizer, "abc", world_size=4, fresh=False)
    assert [launch["world_size"] for launch in launches(run)] == [2, 4]


@pytest.mark.parametrize(
    "content",
    ['{"launches": [', "[]", '{"launches": {}}', '{"launches": [1]}', '{"launches": null}', "", "\xff"],
)
def test_a_damaged_list_of_launches_is_replaced(run, tokenizer, caplog, content):
    (run / "provenance.json").write_text(content, encoding="latin-1")
    prepare_run_folder(run, a_recipe(), tokenizer, "abc", world_size=4, fresh=False)
    assert [launch["world_size"] for launch in launches(run)] == [4]
    assert f"{run}/provenance.json: it cannot be read" in caplog.text
    assert (run / "provenance.json.damaged").read_text(encoding="latin-1") == content


def test_changes_of_a_resumed_run_are_logged(run, tokenizer, caplog):
    longer = a_recipe(a_phase(tokens=8_192))
    with caplog.at_level(logging.WARNING):
        check_unchanged(run, longer)
        prepare_run_folder(run, longer, tokenizer, "abc", world_size=2, fresh=False)
    expected = "recipe changed since the last start: phases.phase0.tokens was 4096, is 8192"
    assert [record.message for record in caplog.records] == [expected]
    assert load_recipe(run / "recipe.yaml").phases == longer.phases


def test_a_run_from_before_the_switches_resumes(run, caplog):
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    for switch in MODEL_SWITCHES:
        del recipe["model"][switch]
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    check_unchanged(run, a_recipe())
    assert not caplog.records


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"a", b"\xff\xfe", b"[" * 9_999, b"!!python/name:os.system"]
)
def test_a_damaged_recipe_of_the_last_start_is_set_aside(run, caplog, content):
    (run / "recipe.yaml").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        check_unchanged(run, a_recipe())
    (record,) = caplog.records
    assert record.message.startswith(f"{run}/recipe.yaml: it cannot be read (")
    assert record.message.endswith("; it was renamed to recipe.yaml.damaged, and the run goes on without it")
    assert "\n" not in record.message
    assert not (run / "recipe.yaml").exists()
    assert (run / "recipe.yaml.damaged").read_bytes() == content


def test_a_damaged_id_of_wandb_is_set_aside(run):
    (run / "wandb_id").write_bytes(b"\xff")
    assert re.fullmatch(r"\w{12}", wandb_id(run))
    assert wandb_id(run) == (run / "wandb_id").read_text()
    assert (run / "wandb_id.damaged").exists()


def test_commit_of_the_code(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=x", "-c", "user.email=x@x"]
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True)

    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "code.py"))
    assert git_commit() is None
    (tmp_path / "code.py").write_text("1")
    git("init")
    git("add", "code.py")
    git("commit", "-m", "first")
    commit = git_commit()
    assert re.fullmatch("[0-9a-f]{40}", commit)
    git("tag", "-a", "v1", "-m", "v1")
    assert git_commit() == commit
    (tmp_path / "code.py").write_text("2")
    assert git_commit() == f"{commit}-dirty"


def test_no_commit_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert git_commit() is None


def test_code_is_identified_by_its_files(monkeypatch, tmp_path):
    before = code_hash()
    shutil.copytree(Path(provenance.__file__).parents[1], tmp_path / "copy")
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "copy/checkpoints/provenance.py"))
    assert code_hash() == before
    with (tmp_path / "copy/model/rope.py").open("a") as file:
        file.write("\n")
    assert code_hash() != before


def test_a_restart_says_what_changed(run, tokenizer, caplog):
    with caplog.at_level(logging.WARNING):
        prepare_run_folder(run, a_recipe(), tokenizer, "abc", world_size=2, fresh=False)
    assert not caplog.records
    content = json.loads((run / "provenance.json").read_text())
    last = content["launches"][-1]
    last |= {"git_commit": "abc", "code": "0123", "host": "other", "device": "H100"}
    last["packages"] |= {"torch": "2.0.0", "flash-attn": "2.6"}
    del last["python"]  # as an older version wrote it
    (run / "provenance.json").write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        prepare_run_folder(run, a_recipe(), tokenizer, "abc", world_size=4, fresh=False)
    now = launches(run)[-1]
    expected = [
        f"commit changed since the last start: was abc, is {now['git_commit'] or 'none'}",
        f"files of the package changed since the last start: was 0123, is {now['code']}",
        f"host changed since the last start: was other, is {now['host']}",
        "device changed since the last start: was H100, is cpu",
        "number of ranks changed since the last start: was 2, is 4",
        f"package flash-attn changed since the last start: was 2.6, is {now['packages'].get('flash-attn', 'none')}",
        f"package torch changed since the last start: was 2.0.0, is {now['packages']['torch']}",
    ]
    assert [record.message for record in caplog.records] == expected
