"""Secrets do not leave the process, whichever way they came in."""

import logging
from contextlib import suppress

import pytest

from data_prep.cli import main as data_prep
from modernbert_train.cli import main
from modernbert_train.common.redaction import RedactingFormatter, print_exception, redact, secret_in
from modernbert_train.config import load_recipe
from tests.helpers.little_recipe import YAML, write
from tests.helpers.stores import make_tokenizer

SECRET = "wJalrXUtnFEMI7MDENGbPxRfiCYEXAMPLEKEY"


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        (f"store: s3://AKIA1:{SECRET}@bucket/web is", "store: s3://***@bucket/web is"),
        ("s3://AKIA1:a/b@c+d@bucket/web", "s3://***@bucket/web"),
        (f"https://{SECRET}@host/a", "https://***@host/a"),
        (f"to https://x/y?X-Amz-Date=1&X-Amz-Signature={SECRET}&z=1", "to https://x/y?X-Amz-Date=1&X-Amz-Signature=***&z=1"),
        (f"azure://c/p?sv=2&sig={SECRET}", "azure://c/p?sv=2&sig=***"),
        (f"AWS_SECRET_ACCESS_KEY={SECRET} AWS", "AWS_SECRET_ACCESS_KEY=*** AWS"),
        (f"{{'password': '{SECRET}', 'user': 'me'}}", "{'password': '***', 'user': 'me'}"),
        (f"AccountName=a;AccountKey={SECRET};Suffix=b", "AccountName=a;AccountKey=***;Suffix=b"),
        (f"wandb_api_key={SECRET}", "wandb_api_key=***"),
        (f"x?y token={SECRET}, z", "x?y token=***, z"),
        (f"Authorization: Bearer {SECRET}", "Authorization: Bearer ***"),
        (f"the token hf_{'a1' * 17} is", "the token *** is"),
        ("key AKIAIOSFODNN7EXAMPLE is", "key *** is"),
    ],
)  # fmt: skip
def test_secrets_are_hidden(text, redacted):
    assert redact(text) == redacted
    assert redact(redacted) == redacted
    assert secret_in(text)


@pytest.mark.parametrize(
    "text",
    [
        "hf://datasets/a/b@main/web",
        "oci://bucket@namespace/web",
        "abfs://container@account.dfs.core.windows.net/web",
        "http://127.0.0.1:9/a@b",
        "s3://bucket:443/web/a@b",
        "phases.pretrain.batch_tokens=4_096, mask_token=[MASK], row_tokens=8192",
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; GCS_KEY and GCS_SECRET, or run",
        "[UNK] is no token: [MASK]; write key=value, such as optimizer.eps=1e-6",
        "/data/shared_key/tokens/secret-santa/web",
        "code a1b2c3d4e5f60718293a4b5c6d7e8f9012345678, files 0123456789abcdef",
    ],
)
def test_other_text_is_left_alone(text):
    assert redact(text) == text
    assert secret_in(text) is None


def test_values_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIO_PASSWORD", "correct/horse battery")
    monkeypatch.setenv("MY_KEY", str(tmp_path))
    monkeypatch.setenv("SHORT_KEY", "train")
    text = f"correct/horse battery, correct%2Fhorse%20battery, {tmp_path}, train"
    assert redact(text) == f"***, ***, {tmp_path}, train"
    assert secret_in(text) == "the value of the environment variable MINIO_PASSWORD"


def test_log_lines_and_tracebacks(monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    try:
        raise OSError(f"GET https://x/y?token={SECRET}")
    except OSError as error:
        print_exception(type(error), error, error.__traceback__)
        record = logging.LogRecord(
            "name", logging.ERROR, "", 0, "%s failed", (SECRET,), (type(error), error, None)
        )
    for text in (capsys.readouterr().err, RedactingFormatter("%(message)s").format(record)):
        assert "OSError: GET https://x/y?token=***" in text
        assert SECRET not in text


WAYS_IN = [
    f"data.sources.web.store=s3://AKIA1:{SECRET}@bucket/web",
    f"data.sources.web.store=https://x/web?X-Amz-Signature={SECRET}",
    f"data.tokenizer=s3://AKIA1:{SECRET}@bucket/web",
    f"init.from=https://user:{SECRET}@host/model",
    f"run_folder=s3://AKIA1:{SECRET}@bucket/run",
    f"data.cache.folder=/cache/token={SECRET}",
    f"data.skip.documents_file=https://{SECRET}@host/skip",
    f"wandb.tags=[a, wandb_api_key={SECRET}]",
    "wandb.entity=${oc.env:WANDB_API_KEY}",
    f"phases.pretrain.tokens=s3://AKIA1:{SECRET}@bucket",  # of another type
    f"data.sources.web.password={SECRET}",  # no field
    f"wandb.api_key={SECRET}",
]
NO_OVERRIDES = [
    f"data.sources.web.store=[s3://AKIA1:{SECRET}@bucket/web",  # no YAML
    f"https://user:{SECRET}@host/a",
    f"data.sources.web.store={'x' * 30}s3://AKIA1:{SECRET}@bucket/{'y' * 30}: x",  # no YAML, and shortened
]


@pytest.mark.parametrize(
    ("way_in", "written"),
    [(way, "override") for way in [*WAYS_IN, *NO_OVERRIDES]] + [(way, "file") for way in WAYS_IN],
)
def test_a_recipe_with_a_secret_is_refused_and_nothing_written(
    tmp_path, monkeypatch, capsys, caplog, way_in, written
):
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.chdir(tmp_path)
    text, overrides = YAML, [way_in]
    if written == "file":
        dotted, _, value = way_in.partition("=")
        *sections, field = dotted.split(".")
        inner = f"{field}: {value if value.startswith('[') else repr(value)}"
        for section in reversed(sections):
            inner = f"{section}: {{{inner}}}"
        write(tmp_path, YAML, "base.yaml")
        text, overrides = f"include: base.yaml\n{inner}\n", []
    recipe = write(tmp_path, text)
    before = sorted(tmp_path.rglob("*"))
    sweep = write(
        tmp_path,
        f"base: little.yaml\noverrides: {overrides}\ngrid: {{seed: [1, 2]}}\nseeds: [1]\n",
        "sweep.yml",
    )
    for command in (
        ["train", recipe, *overrides],
        ["train", recipe, "--dry-run", *overrides],
        ["plan", recipe, "--step", "1", *overrides],
        ["doctor", recipe, *overrides],
        ["sweep", sweep, "--report"],
        ["sweep", sweep, "--list"],
    ):
        assert main([str(word) for word in command]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert SECRET not in printed.err + caplog.text
    assert sorted(tmp_path.rglob("*")) == sorted([*before, sweep])


def test_the_recipe_of_an_older_run_is_taken_with_another_address(tmp_path):
    recipe = write(tmp_path, YAML.replace("{store: store}", f"{{store: 's3://AKIA1:{SECRET}@bucket/web'}}"))
    with pytest.raises(
        ValueError, match=r"little.yaml: data.sources.web.store is s3://\*\*\*@bucket/web, which holds"
    ):
        load_recipe(recipe)
    assert (
        load_recipe(recipe, ["data.sources.web.store=s3://bucket/web"]).data.sources["web"].store
        == "s3://bucket/web"
    )


def test_the_remedy(tmp_path, capsys):
    recipe = write(tmp_path)
    assert main(["train", str(recipe), WAYS_IN[0]]) == 2
    assert capsys.readouterr().err == (
        "error: command line: data.sources.web.store is s3://***@bucket/web, which holds a password before the @ of a "
        "URL and would be copied to files, logs and W&B; take it out, and set AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; and S3_ENDPOINT_URL if the server is not Amazon's\n"
    )


@pytest.mark.parametrize(
    "command",
    [
        "evaluate https://user:{}@host/run",
        "export s3://AKIA1:{}@bucket/run exported",
        "import https://{}@host/model imported",
        "report s3://AKIA1:{}@bucket/run",
        "average s3://AKIA1:{}@bucket/a.pt averaged",
        "rewind s3://AKIA1:{}@bucket/run --step 1",
        "recipe s3://AKIA1:{}@bucket/store --hours 1 --cpu",
        "train https://user:{}@host/recipe.yaml",
        "report s3://AKIA1:{}@bucket/run run",
        "rewind run s3://AKIA1:{}@bucket/run",
    ],
)
def test_error_lines_of_other_commands(tmp_path, monkeypatch, capsys, caplog, command):
    monkeypatch.chdir(tmp_path)
    with suppress(SystemExit):  # of the parser
        assert main(command.format(SECRET).split()) == 2
    assert "***@" in (error := capsys.readouterr().err)
    assert SECRET not in error + caplog.text + "".join(map(str, tmp_path.rglob("*")))


@pytest.mark.parametrize(
    "command",
    [
        "index s3://AKIA1:{}@bucket/mds --tokenizer t --out out",
        "index memory://x?token={} --tokenizer t --out out",
        "inspect s3://AKIA1:{}@bucket/store",
        "tokenize out --tokenizer t --input web=https://user:{}@host/a.jsonl",
        "tokenize out --tokenizer s3://AKIA1:{}@bucket/t --input web=a.jsonl",
    ],
)
def test_error_lines_of_data_prep(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    make_tokenizer(tmp_path / "t")
    before = sorted(tmp_path.rglob("*"))
    assert data_prep(command.format(SECRET).split()) == 2
    assert "***" in (error := capsys.readouterr().err)
    assert SECRET not in error
    assert sorted(tmp_path.rglob("*")) == before
