import subprocess
import sys

from modernbert_train.common.processes import EXIT_CODE_FILE, failed_exit_code, first_exit_code


def test_ranks_of_a_launch_end_with_the_code_of_the_first_to_fail(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv(EXIT_CODE_FILE, str(tmp_path / "code"))
    assert [first_exit_code(0), failed_exit_code()] == [0, None]
    assert [first_exit_code(code) for code in (2, 1, 138, 0)] == [2, 2, 2, 0]
    assert len(list(tmp_path.iterdir())) == 1


def test_ranks_of_a_launcher_that_has_died_stay_its_ranks(tmp_path):
    """Otherwise they would share the exit codes of all processes whose parent is process 1."""
    code = (
        "import os\n"
        "from modernbert_train.common.processes import failed_exit_code, first_exit_code\n"
        "assert [first_exit_code(code) for code in (2, 1)] == [2, 2]\n"
        "os.getppid = lambda: 1\n"
        "assert failed_exit_code() == 2"
    )
    variables = {"LOCAL_WORLD_SIZE": "2", "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=variables, check=True)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_process_without_a_launcher_keeps_its_code(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    monkeypatch.delenv(EXIT_CODE_FILE, raising=False)
    assert [first_exit_code(code) for code in (2, 1)] == [2, 1]


def test_a_rank_without_a_temporary_folder_keeps_its_code(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv(EXIT_CODE_FILE, str(tmp_path / "missing" / "code"))
    assert first_exit_code(2) == 2
