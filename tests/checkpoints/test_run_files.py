import json

import pytest

from modernbert_train.checkpoints.run_files import (
    drop_after,
    move_after,
    read_last_line,
    read_lines,
    read_metrics,
)


def line(step: int, **fields: object) -> str:
    return json.dumps({"step": step, **fields}) + "\n"


def test_lines_after_the_checkpoint_are_dropped_and_the_rest_is_unchanged(tmp_path):
    path = tmp_path / "metrics.jsonl"
    kept = line(1, loss=5.0) + line(2, loss=4.0) + line(2, eval={"web": {"loss": 4.5}})
    path.write_text(kept + line(3, loss=3.5) + line(3, eval={"web": {"loss": 4.0}}) + '{"step": 4, "lo')
    drop_after(path, 2)
    assert path.read_text() == kept
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_truncated_line_before_the_checkpoint_is_dropped_too(tmp_path):
    # The system went down while step 2 was written; its checkpoint was on the disk, the end of the line was not.
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(1) + line(2)[:-3])
    drop_after(path, 2)
    assert path.read_text() == line(1)


def test_a_missing_line_end_is_added(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(1) + line(2).rstrip("\n"))
    drop_after(path, 2)
    assert path.read_text() == line(1) + line(2)


def test_nothing_to_drop(tmp_path):
    path = tmp_path / "metrics.jsonl"
    drop_after(path, 0)
    assert not path.exists()
    path.write_text(line(1) + line(2))
    drop_after(path, 0)
    assert path.read_text() == ""


DAMAGED = [b"\xff", b"[1]", b"3", b'{"loss": 1}', b'{"step": "1"}', b'{"step": true}', b"[" * 99_999, b"\0\0"]


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_lines_are_left_out_and_the_file_is_kept_aside(tmp_path, damage, caplog):
    path, content = (
        tmp_path / "metrics.jsonl",
        line(1).encode() + damage + b"\n" + line(2).encode() + line(3).encode(),
    )
    path.write_bytes(content)
    assert [record["step"] for _, record in read_lines(path)] == [1, 2, 3]
    (tmp_path / "aside").mkdir()
    assert move_after(path, 2, tmp_path / "aside") == 1
    assert path.read_text() == line(1) + line(2)
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == content
    expected = (
        f"{path}: damaged: line 2; the other lines were kept; it was renamed to metrics.jsonl.damaged, and"
    )
    assert caplog.messages[0].startswith(expected)
    path.write_bytes(content)
    drop_after(path, 1)
    assert (tmp_path / "metrics.jsonl.damaged-2").exists()


@pytest.mark.parametrize(
    "damage",
    [*DAMAGED, b'{"step": 1, "loss": "x"}', b'{"step": 1, "eval": []}', b'{"step": 1, "eval": {"a": [1]}}'],
)
def test_a_report_names_the_damaged_line(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line(1, loss=5.0, source_tokens={"web": 3}).encode() + damage + b"\n")
    with pytest.raises(
        ValueError, match=r"metrics\.jsonl, line 2: not a line that a run writes: b.*; remove the line$"
    ):
        read_metrics(path)
    assert read_last_line(path).get("step") in (None, 1)
