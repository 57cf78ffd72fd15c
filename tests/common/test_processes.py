import pytest

from modernbert_train.common.processes import EXIT_CODE_FILE, failed_exit_code, first_exit_code


@pytest.mark.parametrize("named", [True, False])
def test_ranks_of_a_launch_end_with_the_code_of_the_first_to_fail(tmp_path, monkeypatch, named):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    if named:
        monkeypatch.setenv(EXIT_CODE_FILE, str(tmp_path / "code"))
    else:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert [first_exit_code(0), failed_exit_code()] == [0, None]
    assert [first_exit_code(code) for code in (2, 1, 138, 0)] == [2, 2, 2, 0]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_process_without_a_launcher_keeps_its_code(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert [first_exit_code(code) for code in (2, 1)] == [2, 1]


def test_a_rank_without_a_temporary_folder_keeps_its_code(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv(EXIT_CODE_FILE, str(tmp_path / "missing" / "code"))
    assert first_exit_code(2) == 2
