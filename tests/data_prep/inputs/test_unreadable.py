"""Full disks and unreadable files are reported, and no finished part is lost."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from modernbert_train.store.manifest import load_manifest
from tests.helpers.texts import files_of, numbered_texts, run_tokenize, write_json_lines

REPOSITORY = Path(__file__).parents[3]


def test_a_full_disk_is_an_error_and_what_is_finished_stays(tokenizer_folder, tmp_path):
    """Simulate a full disk by a limit on file sizes: two parts fit, the third does not."""
    for name, count in (("a", 10), ("b", 20), ("c", 6_000)):
        write_json_lines(tmp_path / f"{name}.jsonl", numbered_texts(count))
    command = [sys.executable, "-m", "data_prep", "tokenize", "store", "--tokenizer", str(tokenizer_folder)]
    command += ["--workers", "2", "--input", "a=a.jsonl", "b=b.jsonl", "c=c.jsonl"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    limited = f"trap '' XFSZ; ulimit -f 100; exec {shlex.join(command)}"  # blocks of 1,024 bytes
    done = subprocess.run(["bash", "-c", limited], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: store: store cannot be written ([Errno 27] File too large")
    assert error.endswith("finished parts are kept: fix the cause and rerun the same command")
    assert "Traceback" not in done.stderr
    finished = sorted((tmp_path / "store/.work/tokens").glob("00000?"))
    times = {path: path.stat().st_mtime_ns for path in finished}
    with pytest.raises(ValueError, match="preparation did not finish"):
        load_manifest(tmp_path / "store")
    whole = run_tokenize(Path("whole"), tokenizer_folder, "a=a.jsonl", "b=b.jsonl", "c=c.jsonl")
    assert whole == 0
    again = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert again.returncode == 0
    assert files_of(tmp_path / "store") == files_of(Path("whole"))
    assert len(times) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_full_tmpfs(tokenizer_folder, tmp_path, capsys):
    write_json_lines(tmp_path / "x.jsonl", numbered_texts(30_000))
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)]).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        for _ in range(2):
            assert run_tokenize(disk / "store", tokenizer_folder, "web=x.jsonl") == 2
            assert "No space left on device" in capsys.readouterr().err.splitlines()[-1]
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        assert run_tokenize(disk / "store", tokenizer_folder, "web=x.jsonl") == 0
        assert load_manifest(disk / "store").sources["web"]["train"].num_documents > 29_000
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_cannot_be_read_is_named_and_left_out_on_request(tokenizer_folder, tmp_path, capfd, workers):
    write_json_lines(tmp_path / "a.jsonl", numbered_texts(50))
    write_json_lines(tmp_path / "c.jsonl", numbered_texts(50)[::-1])
    (tmp_path / "b.jsonl.gz").write_bytes(b"no archive")
    (tmp_path / "d.jsonl").write_text('{"text": "x"}\n{"body": "y"}\n{"text": "z"}\n')
    inputs = ("web=a.jsonl,b.jsonl.gz,c.jsonl", "code=d.jsonl")
    options = ("--workers", workers, "--valid-fraction", "0")
    assert run_tokenize(Path("store"), tokenizer_folder, *inputs, options=options) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith(
        ("error: b.jsonl.gz:1: cannot be read (Error -3 while decompressing", "error: d.jsonl:2: has no")
    )
    options = (*options, "--on-bad-row", "skip", "--overwrite")
    assert run_tokenize(Path("store"), tokenizer_folder, *inputs, options=options) == 0
    captured = capfd.readouterr()
    assert "left out: b.jsonl.gz:1: cannot be read (Error -3 while decompressing" in captured.err
    assert "left out: d.jsonl:2: has no field 'text'; fields: body" in captured.err
    assert "web: left out 1 unreadable files" in captured.out
    manifest = load_manifest("store")
    assert manifest.left_out == {"web": {"unreadable_files": 1}, "code": {"unreadable_documents": 1}}
    assert [splits["train"].num_documents for splits in manifest.sources.values()] == [100, 2]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tokenizer_folder, tmp_path, capsys):
    write_json_lines(tmp_path / "x.jsonl", ["x"]).chmod(0)
    assert run_tokenize(Path("store"), tokenizer_folder, "web=x.jsonl") == 2
    assert "error: x.jsonl:1: cannot be read ([Errno 13] Permission denied" in capsys.readouterr().err
