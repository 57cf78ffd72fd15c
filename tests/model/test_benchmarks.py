"""The benchmarks run, and the ways they compare compute the same."""

import pytest

from benchmarks import attention, finetune, remote, train_step
from tests.helpers.tasks import write_suite


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
def test_attention(capsys):
    attention.main(["--tokens", "300", "--context", "100", "--heads", "1", "--repeats", "1"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.count("e-") == 2]
    assert len(rows) == 2 * (
        5 + 5
    )  # for both dtypes: no bands in global layers, no nested tensors in local ones
    for row in rows:
        assert all(float(error) < 0.05 for error in row[-2:])


def test_train_step(capsys):
    train_step.main(["--tokens", "150", "--context", "64", "--repeats", "1", "--precision", "fp32"])
    rows = [
        line.rsplit(maxsplit=5)
        for line in capsys.readouterr().out.splitlines()
        if " 1.00 " in line or "ours" in line or "packed" in line
    ]
    assert [row[0] for row in rows] == ["transformers, padded", "transformers, packed", "ours"]
    losses = [float(row[4]) for row in rows]
    assert losses == pytest.approx([losses[0]] * 3, abs=2e-5)


@pytest.mark.parametrize("task", ["pairs", "names"])
def test_finetune(task, tiny_exported, tmp_path, capsys):
    suite = write_suite(tmp_path)
    finetune.main([str(tiny_exported), f"{suite}:{task}", "batch_size=4", "--steps", "1", "max_tokens=40"])
    rows = [line.rsplit(maxsplit=5) for line in capsys.readouterr().out.splitlines() if " x  " in line]
    assert [row[0] for row in rows] == ["packed", "padded, by length", "padded to longest", "padded to 40"]
    losses = [float(row[4]) for row in rows]
    assert losses == pytest.approx([losses[0]] * 4, abs=2e-5)


@pytest.mark.parametrize("benchmark", [attention, finetune, remote, train_step])
def test_help_has_examples(benchmark, capsys):
    with pytest.raises(SystemExit, match="0"):
        benchmark.main(["--help"])
    assert f"python -m {benchmark.__name__}" in capsys.readouterr().out
