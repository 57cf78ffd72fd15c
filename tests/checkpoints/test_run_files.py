import json

from modernbert_train.checkpoints.run_files import drop_after


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
