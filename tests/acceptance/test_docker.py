"""The files in docker/ are well formed, and agree with the code and requirements.lock."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from modernbert_train.common.processes import REQUEUE_EXIT_CODE

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
SCRIPTS = [DOCKER / "launch.sh", DOCKER / "slurm.sbatch"]

# The fields of Kubeflow's CustomResourceDefinition, kubeflow.org/v1, down to the level of pods.
FIELDS = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "spec": {"elasticPolicy", "nprocPerNode", "pytorchReplicaSpecs", "runPolicy"},
    "spec.runPolicy": {
        "activeDeadlineSeconds", "backoffLimit", "cleanPodPolicy", "managedBy", "schedulingPolicy", "suspend",
        "ttlSecondsAfterFinished",
    },
    "replica": {"replicas", "restartPolicy", "template"},
}  # fmt: skip


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True)


def linter(name: str) -> str:
    """Return the path of a program that requirements.lock installs, on platforms that have it."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash(script):
    done = run("bash", "-n", script)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_by_shellcheck(script):
    done = run(linter("shellcheck"), script)
    assert done.returncode == 0, done.stdout


def test_dockerfile_by_hadolint():
    done = run(linter("hadolint"), DOCKER / "Dockerfile")
    assert done.returncode == 0, done.stdout


def test_the_image_has_the_cuda_of_the_lock():
    (tag,) = re.findall(
        r"^FROM nvidia/cuda:(\d+\.\d+)\.\d+-devel-", (DOCKER / "Dockerfile").read_text(), re.MULTILINE
    )
    lock = (ROOT / "requirements.lock").read_text()
    assert re.search(rf"^nvidia-cuda-runtime=={re.escape(tag)}\.", lock, re.MULTILINE)


def test_the_image_installs_as_the_makefile_does():
    wanted = re.findall(r"install .*?(--no-deps [^|\n]*[^| \n])", (ROOT / "Makefile").read_text())
    lines = (DOCKER / "Dockerfile").read_text()
    assert len(wanted) == 2
    assert all(options in lines for options in wanted)


def test_the_slurm_template_requeues_a_preempted_job(tmp_path):
    """srun and scontrol are replaced by scripts that record their arguments."""
    (tmp_path / "bin").mkdir()
    for name, body in {
        "srun": 'for word in "$@"; do echo "$word"; done >"$LOG/srun"; exit "$SRUN_ENDS_WITH"',
        "scontrol": 'if [ "$1" = show ]; then echo n1; echo n2; else echo "$@" >"$LOG/scontrol"; fi',
    }.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    for status in (0, 1, 2, REQUEUE_EXIT_CODE):
        (tmp_path / "scontrol").unlink(missing_ok=True)
        environment = {
            "PATH": f"{tmp_path}/bin:/usr/bin:/bin",
            "LOG": str(tmp_path),
            "SRUN_ENDS_WITH": str(status),
            "SLURM_SUBMIT_DIR": str(tmp_path),
            "SLURM_JOB_ID": "77",
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_JOB_NUM_NODES": "2",
        }
        done = subprocess.run(["bash", DOCKER / "slurm.sbatch", "my recipe.yaml", "seed=3"], env=environment)
        assert done.returncode == status
        assert (tmp_path / "scontrol").exists() == (status == REQUEUE_EXIT_CODE)
    assert (tmp_path / "scontrol").read_text() == "requeue 77\n"
    assert (tmp_path / "srun").read_text().splitlines()[-3:] == ["launch", "my recipe.yaml", "seed=3"]


@pytest.fixture
def job():
    return yaml.safe_load((DOCKER / "pytorchjob.yaml").read_text())


def test_the_manifest_has_known_fields_only(job):
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    assert set(job) <= FIELDS[""]
    assert {"pytorchReplicaSpecs"} <= set(job["spec"]) <= FIELDS["spec"]
    assert set(job["spec"]["runPolicy"]) <= FIELDS["spec.runPolicy"]
    replicas = job["spec"]["pytorchReplicaSpecs"]
    assert set(replicas) == {"Master", "Worker"}
    for replica in replicas.values():
        assert set(replica) == FIELDS["replica"]
        assert replica["restartPolicy"] == "ExitCode"
        (container,) = replica["template"]["spec"]["containers"]
        assert container["name"] == "pytorch"
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in replica["template"]["spec"]["volumes"]}
    assert replicas["Master"]["replicas"] == 1
    assert REQUEUE_EXIT_CODE >= 128  # restartPolicy ExitCode restarts for codes of 128 and above


def test_world_size_of_the_manifest(job):
    replicas = job["spec"]["pytorchReplicaSpecs"].values()
    (container,) = next(iter(replicas))["template"]["spec"]["containers"]
    arguments = container["args"]
    ranks_per_pod = int(arguments[arguments.index("-n") + 1])
    assert container["resources"]["limits"]["nvidia.com/gpu"] == ranks_per_pod
    world_size = int(arguments[arguments.index("--world_size") + 1])
    assert world_size == ranks_per_pod * sum(replica["replicas"] for replica in replicas)
    assert (ROOT / arguments[arguments.index("train") + 1]).is_file()
    assert container["command"] == ["/opt/modernbert-train/docker/launch.sh"]
