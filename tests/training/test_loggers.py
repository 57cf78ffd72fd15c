import logging

import pytest

from modernbert_train.cli import main
from modernbert_train.config.schema import WandbConfig
from modernbert_train.training.loggers import check_wandb, log_wandb_upload


@pytest.fixture
def _no_key(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.mark.usefixtures("_no_key")
def test_a_missing_key_is_an_error_before_the_data_is_read(tiny, tmp_path, capsys):
    options = ["wandb.project=p", f"run_folder={tmp_path}/run", "data.sources.web.store=nowhere"]
    assert main(["train", str(tiny), *options]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line == (
        "error: wandb.project is p: W&B has no API key; set the environment variable WANDB_API_KEY, run `wandb login` "
        "before, or set wandb.mode=offline"
    )
    assert not (tmp_path / "run").exists()


def test_no_key_is_needed_where_nothing_is_sent():
    check_wandb(WandbConfig())
    check_wandb(WandbConfig(project="p", mode="offline"))


def test_all_folders_of_a_run_are_uploaded_in_order(tmp_path, caplog):
    (tmp_path / "wandb_id").write_text("abc")
    for name in ("20260102_000000-abc", "20260101_000000-abc", "20260101_000000-other"):
        (tmp_path / "wandb" / f"offline-run-{name}").mkdir(parents=True)
    with caplog.at_level(logging.INFO):
        log_wandb_upload(WandbConfig(project="p", mode="offline"), tmp_path)
    first, second = (tmp_path / f"wandb/offline-run-2026010{day}_000000-abc" for day in (1, 2))
    assert caplog.messages == [f"to upload this run to W&B: wandb sync --id abc --yes {first} {second}"]
