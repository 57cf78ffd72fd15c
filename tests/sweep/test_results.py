import csv

import pytest

from modernbert_train.config.architecture import num_parameters
from modernbert_train.sweep.definition import read_sweep
from modernbert_train.sweep.results import collect_results, draw_results, paired_difference, write_results
from tests.helpers.pages import Parsed
from tests.helpers.sweeps import make_sweep, pretend_finished
from tests.helpers.weights import make_info

GRID = """
grid: {model.mlp: [geglu, gelu], model.local_attention: [16, 32]}
cells: {all-global: [model.global_attn_every_n_layers=1]}
"""


@pytest.fixture
def sweep(tmp_path):
    """Made-up losses: in the first cell 4 and 2 with seed 1, 4.5 and 2.5 with seed 2; 0.1 more in each later cell."""
    sweep = read_sweep(make_sweep(tmp_path, GRID))
    for number, cell in enumerate(sweep.cells):
        for shift, run in zip((0, 0.5), cell.runs, strict=True):
            loss = shift + number / 10
            pretend_finished(run, {"web": 4 + loss, "code": 2 + loss}, tokens_per_s=1_000.0 + 100 * number)
    return sweep


def test_what_is_collected(sweep):
    results = collect_results(sweep)
    assert [result.cell.name for result in results] == [cell.name for cell in sweep.cells]
    first, second, *_ = results
    assert [run.mean_loss for run in first.runs] == [3.0, 3.5]
    assert (first.runs[0].accuracies["web"], first.runs[0].tokens) == (0.25, 4_096)
    assert first.parameters == num_parameters(sweep.runs[0].recipe.model)
    difference = paired_difference(second, first)
    # Both seeds are a tenth apart, though the seeds themselves are half a nat apart.
    assert difference.mean == pytest.approx(0.1)
    assert difference.std == pytest.approx(0.0, abs=1e-12)


def test_the_tables(sweep):
    runs, cells, html, page, *_ = write_results(sweep, collect_results(sweep))
    with runs.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    assert (rows[3]["cell"], rows[3]["seed"]) == ("mlp-geglu__local_attention-32", "2")
    assert float(rows[3]["loss/web"]) == pytest.approx(4.6)
    with cells.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    assert float(rows[0]["loss/mean"]) == 3.25
    assert float(rows[0]["loss/mean/sd"]) == pytest.approx(0.5 / 2**0.5)
    assert float(rows[1]["tokens_per_s"]) == 1_100.0
    lines = page.read_text().splitlines()
    (row,) = [line for line in lines if line.startswith("| mlp-geglu__local_attention-32 |") and "K" in line]
    parts = [cell.strip() for cell in row.strip("|").split("|")]
    assert parts[2:5] == ["4.096K", "1,100", "2"]
    assert parts[5:] == ["4.350 ± 0.354", "2.350 ± 0.354", "3.350 ± 0.354", "+0.100 ± 0.000"]
    assert "| 23.6% ± 2.0% |" in page.read_text()  # of web, in the first cell: 1 / 4 and 1 / 4.5
    assert "same task" not in page.read_text()
    assert "different numbers" not in page.read_text()
    shown = Parsed(html.read_text())
    assert any(["mlp-geglu__local_attention-32", *parts[1:]] in rows for _, rows in shown.tables)
    assert all(address.startswith("#") for address in shown.addresses)


def page_of(files):
    (page,) = [file for file in files if file.name == "results.md"]
    return page


def test_what_is_finished_so_far(tmp_path):
    sweep = read_sweep(make_sweep(tmp_path, "cells: {a: [], b: [model.mlp=gelu]}"))
    with pytest.raises(ValueError, match=r"no run of this sweep is finished; start it, or set --folder"):
        collect_results(sweep)
    pretend_finished(sweep.cells[0].runs[0], {"web": 4.0})
    (result,) = collect_results(sweep)
    page = page_of(write_results(sweep, [result]))
    assert "So far 1 of 4 runs are finished." in page.read_text()
    assert "±" not in page.read_text().split("|", 1)[1]  # there is no spread of one seed


def test_figures_that_cannot_be_compared_have_a_note(tmp_path):
    settings = "cells: {a: [], b: [evaluation.mask_rate=0.3], c: [phases.pretrain.tokens=8K]}"
    sweep = read_sweep(make_sweep(tmp_path, settings, seeds="[1]"))
    for run, tokens in zip(sweep.runs, (4_096, 4_096, 8_192), strict=True):
        pretend_finished(run, {"web": 4.0}, tokens)
    (tmp_path / "runs/c/seed-1/checkpoints/step-00000002.json").write_text(make_info(step=4).to_json())
    page = page_of(write_results(sweep, collect_results(sweep)))
    assert "not evaluated on the same task: evaluation.mask_rate differ" in page.read_text()
    assert "trained on different numbers of tokens" in page.read_text()


def test_sources_that_only_some_runs_have_are_left_out(tmp_path):
    sweep = read_sweep(make_sweep(tmp_path, "cells: {a: [], b: [model.mlp=gelu]}", seeds="[1]"))
    first, second = sweep.runs
    pretend_finished(first, {"web": 4.0, "code": 2.0})
    pretend_finished(second, {"web": 5.0})
    assert [list(result.runs[0].losses) for result in collect_results(sweep)] == [["web"], ["web"]]
    file = tmp_path / "runs/b/seed-1/metrics.jsonl"
    file.write_text(file.read_text().replace('"web"', '"wiki"'))
    with pytest.raises(ValueError, match="the runs were evaluated on different sources"):
        collect_results(sweep)


def test_the_picture(sweep):
    chart = draw_results(sweep, collect_results(sweep))
    assert chart.panels == ("web", "code", "mean of the sources")
    assert "by model.local_attention" in chart.unit
    assert list(dict.fromkeys(row.label for row in chart.rows)) == ["16", "32", "all-global"]
    assert chart.groups == ["mlp-geglu", "mlp-gelu", ""]
    assert chart.rows[0].values == ((4.0, 4.5), (2.0, 2.5), (3.0, 3.5))
