"""`modernbert report`: the three files say the same, need nothing else, and survive what users' folders hold."""

import json
import re
from pathlib import Path

import pytest

from modernbert_train.cli import main
from modernbert_train.config import dump_recipe, load_recipe
from modernbert_train.convert.model_card import model_card
from modernbert_train.reporting.page import Page, Section, Text
from modernbert_train.reporting.writing import write_page
from tests.helpers.pages import RECIPE, Parsed, eval_line, step_line, write_metrics, write_run
from tests.helpers.weights import make_info

FORTY = tuple(f"language-{number:02}" for number in range(40))


def report(capsys, *arguments: object) -> tuple[Parsed, str, dict]:
    """Write a report and return its HTML, Markdown and numbers."""
    assert main(["report", *map(str, arguments)]) == 0
    html, markdown, svg, numbers = (Path(line) for line in capsys.readouterr().out.splitlines())
    assert svg.read_text().startswith("<svg xmlns=")
    return Parsed(html.read_text()), markdown.read_text(), json.loads(numbers.read_text())


def tables_of(numbers: dict, title: str = "") -> list[dict]:
    """Return the tables whose title begins so."""
    tables = [table for section in numbers["sections"] for table in section["tables"]]
    return [table for table in tables if table["title"].startswith(title)]


def rounded(text: str) -> object:
    """Return what equals the number in a text, which may have a unit, up to half of its last digit."""
    number, percent = re.match(r"([-+\d.,]+)(%?)", text).groups()
    scale = 0.01 if percent else 1.0
    unit = scale * 10.0 ** -len(number.partition(".")[2])
    return pytest.approx(float(number.replace(",", "")) * scale, rel=1e-9, abs=0.501 * unit)


def check_equal(page: Parsed, markdown: str, numbers: dict) -> None:
    """Check that every table of numbers.json stands in both pages, with its numbers rounded."""
    count, in_html = 0, iter(page.tables)
    for table in tables_of(numbers):
        size = len(table["rows"])
        shown = next(
            rows[-size:]
            for title, rows in in_html
            if title == table["title"]
            and [row[0] for row in rows[-size:]] == [row[0] for row in table["rows"]]
            and (rows[0] == table["columns"] or not any(table["columns"]))
        )
        for cells, row in zip(shown, table["rows"], strict=True):
            assert f"| {' | '.join(cells)} |" in markdown
            for cell, value in zip(cells, row, strict=True):
                if isinstance(value, float | int):
                    assert value == rounded(cell)
                    count += 1
                else:
                    assert cell == (value or "")
    assert count > 20


def test_one_run(tmp_path, capsys):
    run = write_run(tmp_path / "toy")
    page, markdown, numbers = report(capsys, run)
    assert {file.name for file in run.glob("*report*")} == {"report.html", "report.md", "report.svg"}
    check_equal(page, markdown, numbers)
    assert [section["title"] for section in numbers["sections"]] == [
        "Summary",
        "Loss",
        "Training",
        "Data",
        "Model and recipe",
        "Environment",
    ]
    figures = numbers["sections"][0]["figures"]
    assert figures["Held-out loss"] == f"{(7 + 6) / 2 / 89:.3f}"
    assert figures["Tokens"] == "91.1K"
    charts = {chart["title"]: chart for section in numbers["sections"] for chart in section["charts"]}
    prose = next(
        curve for curve in charts["Training and held-out loss"]["curves"] if curve["name"] == "prose"
    )
    assert prose["tokens"] == [30 * 1_024, 59 * 1_024, 89 * 1_024]
    assert prose["values"] == pytest.approx([7 / 30, 7 / 59, 7 / 89])
    # The plan, not the logged rate, which is constant.
    rate = charts["Learning rate"]["curves"][0]
    assert max(rate["values"]) == 1e-3
    assert rate["values"][-1] == pytest.approx(0, abs=2e-5)
    assert [text for text in page.texts["text"] if text in ("pretrain", "extend")][:2] == [
        "pretrain",
        "extend",
    ]
    assert "host changed since the last start: was node-1, is node-2" in markdown
    assert "global attention" in markdown


def test_the_model_card_has_the_same_tables(tmp_path, capsys):
    run = write_run(tmp_path / "toy")
    _, markdown, _ = report(capsys, run)
    recipe = load_recipe(run / "recipe.yaml")
    (run / "recipe.yaml").write_text(dump_recipe(recipe))  # as a run writes it
    info = make_info(step=89, phase="extend", sha256="0", model=recipe.model, context_tokens=1_024)
    card = model_card("toy", info, run)
    tables = re.findall(r"(?:^\|.*\n)+", card, flags=re.MULTILINE)
    assert [table.split(" |")[0] for table in tables] == ["| ", "| phase", "| source"]
    assert all(table in markdown for table in tables)


def test_the_page_needs_nothing_else(tmp_path, capsys):
    page, _, _ = report(capsys, write_run(tmp_path / "toy"))
    assert all(address.startswith("#") for address in page.addresses)
    (policy,) = [
        attributes["content"]
        for tag, attributes in page.attributes
        if tag == "meta" and "http-equiv" in attributes
    ]
    assert policy.startswith("default-src 'none'")
    code = "".join(page.texts["script"] + page.texts["style"])
    assert not re.search(r"@import|url\(|fetch|XMLHttpRequest|import\(", code)
    assert re.findall(r"https?://[^\s\"']+", code) == ["http://www.w3.org/2000/svg"]


def test_pictures_have_names_and_tables(tmp_path, capsys):
    page, _, _ = report(capsys, write_run(tmp_path / "toy"))
    charts = [
        attributes for tag, attributes in page.attributes if tag == "svg" and attributes.get("role") == "img"
    ]
    names = {
        attributes["id"]
        for tag, attributes in page.attributes
        if tag in ("title", "desc") and "id" in attributes
    }
    assert len(charts) > 6
    for chart in charts:
        assert set(chart["aria-labelledby"].split()) <= names
    assert (
        page.texts["summary"].count("Values as a table")
        == len([c for c in charts if "small" not in c["class"]]) + 1
    )
    ids = [attributes["id"] for _, attributes in page.attributes if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_two_runs_are_compared(tmp_path, capsys):
    runs = write_run(tmp_path / "a"), write_run(tmp_path / "b", seed=18, loss=2.0, steps=60)
    page, markdown, numbers = report(capsys, *runs, "--out", tmp_path / "both.html")
    check_equal(page, markdown, numbers)
    assert (tmp_path / "both-numbers.json").is_file()
    (differences,) = tables_of(numbers, "Fields that differ")
    assert differences["columns"] == ["field", "a", "b"]
    assert differences["rows"] == [["seed", "17", "18"]]
    assert "have not trained on the same number of tokens" in markdown
    assert "cannot all be compared" not in markdown
    training = next(section for section in numbers["sections"] if section["title"] == "Training")
    assert [curve["name"] for curve in training["charts"][0]["curves"]] == ["a", "b"]


OTHERS = {
    "tokenizer": {"tokenizer": '{"model": 1}'},
    "objective": {"recipe": RECIPE.replace("extend: {{", "extend: {{objective: clm, ")},
    "evaluation.mask_rate": {"recipe": RECIPE + "evaluation: {{mask_rate: 0.5}}\n"},
    "sources": {"sources": ("wiki", "books")},
    "context_tokens and row_tokens": {
        "recipe": RECIPE.replace("context_tokens: 1024", "context_tokens: 512")
    },
}


@pytest.mark.parametrize("difference", OTHERS)
def test_losses_that_cannot_be_compared_share_no_table(tmp_path, capsys, difference):
    runs = (
        write_run(tmp_path / "a"),
        write_run(tmp_path / "b"),
        write_run(tmp_path / "c", **OTHERS[difference]),
    )
    if difference == "objective":
        lines = [
            json.loads(line) | {"objective": "clm"}
            for line in (runs[2] / "metrics.jsonl").read_text().splitlines()
        ]
        write_metrics(runs[2], lines)
        (runs[2] / "evaluation.json").unlink()
    _, markdown, numbers = report(capsys, *runs, "--out", tmp_path / "all.html")
    assert "cannot all be compared: they differ in " in markdown
    assert difference in markdown.split("they differ in ")[1].split(". Each of the 2 groups")[0]
    tables = tables_of(numbers, "Held-out loss in the last evaluation")
    assert [[row[0] for row in table["rows"] if row[0] != "unigram baseline"] for table in tables] == [
        ["a", "b"],
        ["c"],
    ]


def watch_line(kind: str, step: int, **scores: dict[str, float | None]) -> str:
    place = {"step": step, "tokens": step * 1_024, "phase": "pretrain", "objective": "mlm"}
    return json.dumps({"kind": kind, **place, "scores": scores}) + "\n"


def test_scores_of_watched_checkpoints(tmp_path, capsys):
    run, other = write_run(tmp_path / "toy"), write_run(tmp_path / "other", tokenizer='{"model": 1}')
    lines = [watch_line("probe", step, sst2={"score": step / 100, "twin": 0.5}) for step in (0, 40, 80)]
    lines += [watch_line("evaluate", 40, prose={"loss": 2.5, "unigram_loss": 5.5}, mute=None), "{damaged\n"]
    (run / "watch.jsonl").write_text("".join(lines))
    _, markdown, numbers = report(capsys, run)
    charts = {
        chart["title"]: chart["curves"]
        for section in numbers["sections"]
        if section["title"] == "Checkpoints"
        for chart in section["charts"]
    }
    assert set(charts) == {"sst2", "prose"}
    assert charts["sst2"][0]["tokens"] == [0, 40 * 1_024, 80 * 1_024]
    assert charts["sst2"][0]["values"] == [0, 0.4, 0.8]
    assert charts["sst2"][1]["values"] == [0.5, 0.5, 0.5]
    assert "| sst2 | toy | 3 | 0.0% | 80.0% | 50.0% |" in markdown
    assert "| prose | toy | 1 | 2.500 | 2.500 | 5.500 |" in markdown
    _, markdown, _ = report(capsys, run, other, "--out", tmp_path / "x.html")
    assert "### Probes of the checkpoints" in markdown
    assert "### Held-out loss of the checkpoints" not in markdown  # of another tokenizer


def test_forty_sources(tmp_path, capsys):
    page, markdown, numbers = report(capsys, write_run(tmp_path / "toy", FORTY))
    check_equal(page, markdown, numbers)
    legend = [
        attributes["data-key"]
        for tag, attributes in page.attributes
        if tag == "button" and "data-key" in attributes
    ]
    assert legend == ["training", "mean of the sources", "unigram baseline"]
    small = [
        attributes
        for tag, attributes in page.attributes
        if tag == "svg" and "small" in (attributes.get("class") or "")
    ]
    assert len(small) == 40
    assert "pretrain 2%" not in markdown  # no text of forty shares in a cell
    _, markdown, numbers = report(
        capsys, tmp_path / "toy", write_run(tmp_path / "b", FORTY), "--out", tmp_path / "x.html"
    )
    (table,) = tables_of(numbers, "Held-out loss in the last evaluation")
    assert table["columns"] == ["source", "toy", "b", "unigram baseline"]
    assert [row[0] for row in table["rows"]] == ["mean", *FORTY]


def test_one_step_without_evaluation_or_other_records(tmp_path, capsys):
    line = step_line(1)
    for name in ("tokens_per_s", "source_tokens", "grad_norm", "data_wait_share"):
        del line[name]
    _, markdown, numbers = report(capsys, write_metrics(tmp_path / "toy", [line]))
    assert "has no held-out scores yet" in markdown
    assert [section["title"] for section in numbers["sections"]] == ["Summary", "Loss"]
    both = report(capsys, tmp_path / "toy", write_run(tmp_path / "b"), "--out", tmp_path / "x.html")
    assert "Without a recipe: toy." in both[1]


def test_a_run_without_any_loss(tmp_path, capsys):
    _, markdown, _ = report(
        capsys, write_metrics(tmp_path / "toy", [step_line(1, loss=None), step_line(2, loss=None)])
    )
    assert "No logged step had a token to predict" in markdown


def test_damaged_records(tmp_path, capsys):
    run = write_run(tmp_path / "toy")
    (run / "recipe.yaml").write_text("name: [")
    (run / "provenance.json").write_text("{")
    (run / "evaluation.json").write_text('{"step": 3, "eval": {"prose": 1}}')
    (run / "tokenizer.json").write_text("")
    _, markdown, _ = report(capsys, run)
    for name in ("recipe.yaml", "provenance.json", "evaluation.json", "tokenizer.json"):
        assert f"{name} cannot be read, so this report lacks what it says" in markdown
    with (run / "metrics.jsonl").open("a") as file:
        file.write("{broken\n")
    assert main(["report", str(run)]) == 2
    assert re.search(
        r"metrics\.jsonl, line 93: not a line that a run writes: .*; remove the line", capsys.readouterr().err
    )


def test_a_recipe_that_this_version_cannot_load(tmp_path, capsys):
    run = write_run(tmp_path / "toy", recipe=RECIPE + "unknown: 3\n")
    _, markdown, _ = report(capsys, run)
    assert "recipe.yaml cannot be read" in markdown
    assert "unknown: 3" in markdown  # the recipe is shown all the same


def test_an_old_evaluation_gives_the_baseline_only(tmp_path, capsys):
    run = write_run(tmp_path / "toy")
    content = json.loads((run / "evaluation.json").read_text())
    content["eval"]["prose"]["loss"] = 99.0
    (run / "evaluation.json").write_text(json.dumps(content | {"step": 59}))
    _, _, numbers = report(capsys, run)
    (table,) = tables_of(numbers, "Held-out scores after step 89")
    assert table["columns"][:4] == ["source", "loss (nats)", "unigram loss", "below unigram"]
    assert table["rows"][0][:4] == ["prose", pytest.approx(7 / 89), 5.5, pytest.approx(5.5 - 7 / 89)]


def test_phases_of_next_tokens_are_named_and_their_losses_not_joined(tmp_path, capsys):
    steps = [step_line(step, "warm", objective="clm", mask_rate=None) for step in range(1, 30)]
    steps += [step_line(step, objective="mlm") for step in range(30, 60)]
    evaluations = [eval_line(29, "warm", objective="clm"), eval_line(59, objective="mlm")]
    page, _, numbers = report(capsys, write_metrics(tmp_path / "toy", [*steps, *evaluations]))
    assert "warm, next token" in page.texts["text"]
    prose = next(curve for curve in numbers["sections"][1]["charts"][0]["curves"] if curve["name"] == "prose")
    assert prose["values"] == [pytest.approx(7 / 29), None, pytest.approx(7 / 59)]


def test_what_is_worse_than_the_baseline_or_waits_has_a_warning(tmp_path, capsys):
    run = write_run(tmp_path / "toy", data_wait_share=0.4)
    content = json.loads((run / "evaluation.json").read_text())
    content["eval"]["code"]["unigram_loss"] = 0.01
    (run / "evaluation.json").write_text(json.dumps(content))
    page, markdown, _ = report(capsys, run)
    assert "toy, code: worse than the unigram baseline" in markdown
    assert "waits for data in 40% of the time" in markdown
    assert "p" in page.texts


def test_names_with_html_are_text(tmp_path, capsys):
    name = '<script>alert(1)</script>&"|'
    run = write_run(tmp_path / name.replace("/", ":"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line["phase"] = "<b>phase</b>"
        if "eval" in line:
            line["eval"]["<i>x</i>|y"] = line["eval"].pop("code")
    write_metrics(run, lines)
    page, markdown, _ = report(capsys, run)
    tags = {tag for tag, _ in page.attributes}
    assert not tags & {"b", "i"} - {"b"}
    assert page.texts["h1"] == [name.replace("/", ":")]
    assert len(page.texts["script"]) == 1
    assert "<i>x</i>|y" in page.texts["figcaption"]
    assert "<script>" not in markdown.partition("```yaml")[0]
    assert "| &lt;i>x&lt;/i>\\|y |" in markdown


def test_secrets_never_reach_a_report(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "value-of-the-environment")
    run = write_run(tmp_path / "toy")
    secrets = ["hf_" + "a" * 34, "pass-word-1", "value-of-the-environment", "signature-77"]
    with (run / "recipe.yaml").open("a") as file:
        file.write(f"wandb: {{project: {secrets[0]}, entity: value-of-the-environment}}\n")
    content = json.loads((run / "provenance.json").read_text())
    content["launches"][-1]["command"] = [
        "train",
        f"https://me:{secrets[1]}@host/x",
        f"s3://b/x?sig={secrets[3]}",
    ]
    (run / "provenance.json").write_text(json.dumps(content))
    for runs in ([run], [run, write_run(tmp_path / "b")]):
        assert main(["report", *map(str, runs), "--out", str(tmp_path / "x.html")]) == 0
        for file in capsys.readouterr().out.splitlines():
            text = Path(file).read_text()
            assert not [secret for secret in secrets if secret in text]
        assert "***" in (tmp_path / "x.html").read_text()
        json.loads((tmp_path / "x-numbers.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such run folder"),
        (["empty"], r"metrics\.jsonl does not exist; name the folder of a run that has started training"),
        (["new"], "has no training step yet; wait for the first one to be logged"),
        (["toy", "--out", "report.pdf"], r"--out is report\.pdf, must end in \.html, such as report\.html"),
        (["toy", "--out", "no/such/report.html"], "there is no folder no/such; create it"),
        (["toy", "--out", "s3://bucket/report.html"], "a URL, which cannot be written to"),
    ],
)
def test_bad_arguments(tmp_path, capsys, arguments, message):
    Path("empty").mkdir()
    write_metrics(Path("new"), [])
    write_metrics(Path("toy"), [step_line(1)])
    assert main(["report", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_runs_of_one_name_are_told_apart_and_a_run_named_twice_counts_once(tmp_path, capsys):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
    runs = write_run(tmp_path / "x/seed-1"), write_run(tmp_path / "y/seed-1")
    _, _, numbers = report(capsys, *runs, runs[0], "--out", tmp_path / "x.html")
    assert numbers["subtitle"] == "x/seed-1, y/seed-1"


def test_markdown_of_a_recipe_with_a_fence(tmp_path):
    from modernbert_train.reporting.page import Code

    files = write_page(
        Page("x", "", [Section("s", [Code("c", "a: |\n  ```\n"), Text("t")])]), tmp_path / "report.html"
    )
    assert [file.name for file in files] == ["report.html", "report.md", "numbers.json"]
    lines = files[1].read_text().splitlines()
    assert lines.count("````yaml") == lines.count("````") == 1
