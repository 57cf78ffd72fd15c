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
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
LOCK = (ROOT / "requirements.lock").read_text()
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

# The fields of Kubeflow Trainer's CustomResourceDefinitions, trainer.kubeflow.org/v1alpha1 (2.2), and of the JobSet and
# the Job in them.
TRAINER_FIELDS = {
    "TrainJob": {
        "activeDeadlineSeconds", "initializer", "managedBy", "runtimePatches", "runtimeRef", "suspend", "trainer",
    },
    "runtimeRef": {"apiGroup", "kind", "name"},
    "trainer": {"args", "command", "env", "image", "numNodes", "numProcPerNode", "resourcesPerNode"},
    "TrainingRuntime": {"mlPolicy", "podGroupPolicy", "template"},
    "mlPolicy": {"flux", "jax", "mpi", "numNodes", "torch", "xgboost"},
    "jobset": {
        "coordinator", "failurePolicy", "managedBy", "network", "replicatedJobs", "startupPolicy", "successPolicy",
        "suspend", "ttlSecondsAfterFinished",
    },
    "failurePolicy": {"maxRestarts", "restartStrategy", "rules"},
    "failure rule": {"action", "name", "onJobFailureReasons", "targetReplicatedJobs"},
    "job": {
        "activeDeadlineSeconds", "backoffLimit", "backoffLimitPerIndex", "completionMode", "completions", "managedBy",
        "manualSelector", "maxFailedIndexes", "parallelism", "podFailurePolicy", "podReplacementPolicy", "selector",
        "successPolicy", "suspend", "template", "ttlSecondsAfterFinished",
    },
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
    stages = re.findall(r"^FROM nvidia/cuda:(\d+\.\d+)\.\d+-(\w+)-", DOCKERFILE, re.MULTILINE)
    ((built, devel), (tag, base)) = stages
    assert (built, devel, base) == (tag, "devel", "base")
    assert re.search(rf"^nvidia-cuda-runtime=={re.escape(tag)}\.", LOCK, re.MULTILINE)


def test_the_image_installs_as_the_makefile_does_but_no_tools_of_developers():
    assert "--no-deps -r /opt/requirements.lock\n" in DOCKERFILE
    assert "requirements-" not in DOCKERFILE
    (ours,) = re.findall(
        r"install .*(--no-deps .*--editable \.)$", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    assert ours in DOCKERFILE
    assert (ROOT / "modernbert_train/yamls").resolve() == ROOT / "yamls", "the image copies both"


def test_the_image_does_not_run_as_root():
    last = DOCKERFILE.split("\nFROM ")[-1]
    (user,) = re.findall(r"^USER (\d+)$", last, re.MULTILINE)
    assert int(user) > 0
    assert f"useradd --create-home --uid {user} " in last
    doctor = last.index(" modernbert doctor")
    assert last.index(f"USER {user}") < doctor, "checked as the user that trains"
    (home,) = re.findall(r"^ENV HOME=(\S+)", last, re.MULTILINE)
    assert re.search(rf"chmod 1777 .*{home}", last)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_audit_reads_the_lock():
    done = subprocess.run(
        ["make", "--dry-run", "audit"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    tools = re.findall(r"bin/(?:python -W ignore -m )?(pip-audit|pip-licenses|cyclonedx_py) .*", done.stdout)
    assert set(tools) == {"pip-audit", "pip-licenses", "cyclonedx_py"}


def test_the_slurm_template_requeues_a_preempted_job(tmp_path):
    """srun and scontrol are replaced by scripts that record their arguments."""
    (tmp_path / "bin").mkdir()
    for name, body in {
        "srun": 'for word in "$@"; do echo "$word"; done >"$LOG/srun"; echo "$world_size" >"$LOG/ranks"; '
        'exit "$SRUN_ENDS_WITH"',
        "scontrol": 'if [ "$1" = show ]; then echo n1; echo n2; else echo "$@" >"$LOG/scontrol"; fi',
    }.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    for status, num_nodes in ((0, 2), (1, 2), (2, 2), (REQUEUE_EXIT_CODE, 1)):
        (tmp_path / "scontrol").unlink(missing_ok=True)
        environment = {
            "PATH": f"{tmp_path}/bin:/usr/bin:/bin",
            "LOG": str(tmp_path),
            "SRUN_ENDS_WITH": str(status),
            "SLURM_SUBMIT_DIR": str(tmp_path),
            "SLURM_JOB_ID": "77",
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_JOB_NUM_NODES": str(num_nodes),
            "SLURM_GPUS_ON_NODE": "4",
        }
        done = subprocess.run(["bash", DOCKER / "slurm.sbatch", "my recipe.yaml", "seed=3"], env=environment)
        assert done.returncode == status
        assert (tmp_path / "scontrol").exists() == (status == REQUEUE_EXIT_CODE)
        assert int((tmp_path / "ranks").read_text()) == 4 * num_nodes, "with the nodes that it has got"
    assert re.search(r"^#SBATCH --nodes=1-2$", SCRIPTS[1].read_text(), re.MULTILINE)
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


def test_number_of_nodes_of_the_manifest(job):
    replicas = job["spec"]["pytorchReplicaSpecs"].values()
    (container,) = next(iter(replicas))["template"]["spec"]["containers"]
    arguments = container["args"]
    assert f"--nproc-per-node={container['resources']['limits']['nvidia.com/gpu']}" in arguments
    assert f"--nnodes=1:{sum(replica['replicas'] for replica in replicas)}" in arguments
    assert (ROOT / arguments[arguments.index("train") + 1]).is_file()
    assert container["command"] == ["/opt/modernbert-train/docker/launch.sh"]


def test_the_train_job_has_known_fields_only():
    runtime, job = yaml.safe_load_all((DOCKER / "trainjob.yaml").read_text())
    for kind, document in {"TrainingRuntime": runtime, "TrainJob": job}.items():
        assert (document["apiVersion"], document["kind"]) == ("trainer.kubeflow.org/v1alpha1", kind)
        assert set(document["spec"]) <= TRAINER_FIELDS[kind]
    assert set(job["spec"]["runtimeRef"]) == TRAINER_FIELDS["runtimeRef"]
    assert job["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
    assert job["spec"]["runtimeRef"]["kind"] == "TrainingRuntime"
    assert set(runtime["spec"]["mlPolicy"]) <= TRAINER_FIELDS["mlPolicy"]
    jobset = runtime["spec"]["template"]["spec"]
    assert set(jobset) <= TRAINER_FIELDS["jobset"]
    assert set(jobset["failurePolicy"]) <= TRAINER_FIELDS["failurePolicy"]
    assert all(set(rule) <= TRAINER_FIELDS["failure rule"] for rule in jobset["failurePolicy"]["rules"])
    (replicated,) = jobset["replicatedJobs"]
    assert replicated["template"]["metadata"]["labels"] == {
        "trainer.kubeflow.org/trainjob-ancestor-step": "trainer"
    }
    of_job = replicated["template"]["spec"]
    assert set(of_job) <= TRAINER_FIELDS["job"]
    (container,) = of_job["template"]["spec"]["containers"]
    assert replicated["name"] == container["name"] == "node"
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in of_job["template"]["spec"]["volumes"]}


def test_what_the_train_job_starts_and_when_it_starts_again():
    runtime, job = yaml.safe_load_all((DOCKER / "trainjob.yaml").read_text())
    trainer = job["spec"]["trainer"]
    assert set(trainer) <= TRAINER_FIELDS["trainer"]
    assert trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == trainer["numProcPerNode"]
    assert trainer["command"] == ["/opt/modernbert-train/docker/launch.sh"]
    arguments = trainer["args"]
    assert arguments[:2] == ["torchrun", f"--nnodes=1:{trainer['numNodes']}"]
    assert (ROOT / arguments[arguments.index("train") + 1]).is_file()
    of_job = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]
    # A pod failure policy needs pods that are not restarted in place; the JobSet starts all pods again.
    assert (of_job["template"]["spec"]["restartPolicy"], of_job["backoffLimit"]) == ("Never", 0)
    (rule,) = of_job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"]["containerName"] == "node"
    assert set(rule["onExitCodes"]["values"]) == {1, 2}, "mistakes; 137, 138 and 143 start again"
