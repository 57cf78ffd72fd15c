import pytest

from modernbert_train.benchmark.jobs import (
    arguments,
    as_jobs,
    best_jobs,
    check_results,
    drop_weights,
    plan_benchmark,
)
from tests.helpers.benchmarks import pretend_finished, write_suite

TASKS = "tasks: {rte: {start_from: mnli}, mnli: {}, alone: {seeds: [3], epochs: 1}}"


def plan(folder, text=TASKS, models=("runs/a", "runs/b"), overrides=(), random_twin=False):
    suite = write_suite(folder, text)
    return plan_benchmark(suite, models, overrides, str(folder / "out"), random_twin)


def test_jobs_by_hand(tmp_path):
    """A task from which another starts comes first; within it, seed after seed."""
    benchmark = plan(tmp_path)
    assert [job.name for job in benchmark.jobs] == [
        *(f"{model}/{task}/seed-{seed}" for task, seed in (("mnli", 1), ("alone", 3)) for model in "ab"),
        *(f"{model}/mnli/seed-2" for model in "ab"),
        *(f"{model}/rte/seed-{seed}" for seed in (1, 2) for model in "ab"),
    ]
    job = benchmark.jobs[2]
    assert job.out == tmp_path / "out/a/alone/seed-3"
    suite = f"{tmp_path}/little.yaml"
    assert arguments(benchmark, job) == ["finetune", "runs/a", f"{suite}:alone", str(job.out), "seed=3"]
    assert (job.task.seed, job.task.epochs) == (3, 1)


def test_a_job_starts_from_the_model_of_its_seed(tmp_path):
    benchmark = plan(tmp_path, models=["runs/a"], random_twin=True)
    jobs = {job.name: job for job in benchmark.jobs}
    after = {job.name: job.after for job in as_jobs(benchmark)}
    rte = jobs["a-random-twin/rte/seed-2"]
    assert after[rte.name] == ("a-random-twin/mnli/seed-2",)
    words = arguments(benchmark, rte)
    # The weights are those of the twin already: they are not drawn anew.
    assert words[1] == f"{tmp_path}/out/a-random-twin/mnli/seed-2"
    assert "random_twin=true" not in words
    assert "random_twin=true" in arguments(benchmark, jobs["a-random-twin/mnli/seed-2"])
    assert "random_twin=true" not in arguments(benchmark, jobs["a/mnli/seed-2"])


def test_a_grid_is_tried_and_the_best_is_the_start(tmp_path):
    text = "tasks: {mnli: {grid: {epochs: [1, 2], learning_rate: [1e-4, 2e-4]}}, rte: {start_from: mnli}}"
    benchmark = plan(tmp_path, text, models=["runs/a"])
    tried = benchmark.of(benchmark.models[0], "mnli")
    assert len(tried) == 8
    first = tried[0]
    assert first.name == "a/mnli/learning_rate-0.0001__epochs-1/seed-1"
    assert arguments(benchmark, first)[4:] == ["learning_rate=0.0001", "epochs=1.0", "seed=1"]
    (rte, _) = benchmark.of(benchmark.models[0], "rte")
    after = {job.name: job.after for job in as_jobs(benchmark)}
    assert sorted(after[rte.name]) == sorted(job.name for job in tried)
    with pytest.raises(
        ValueError, match=r"seed-1 starts from the best setting of mnli, which is not finished"
    ):
        arguments(benchmark, rte)
    for number, job in enumerate(tried):  # best in the mean, though not with seed 1
        pretend_finished(job, {2: 0.79, 3: 0.8, 6: 0.9}.get(number, 0.6))
    best = best_jobs(tried)
    assert {job.setting for job in best} == {tried[2].setting}
    assert [job.seed for job in best] == [1, 2]
    assert arguments(benchmark, rte)[1] == str(tried[2].out)


def test_names_of_models(tmp_path):
    (tmp_path / "x/checkpoints").mkdir(parents=True)
    (tmp_path / "x/checkpoints/step-00000010.pt").touch()
    models = ["one/base", "two/base", "org/name", "x/checkpoints/step-00000010.pt"]
    assert [model.name for model in plan(tmp_path, models=models[2:]).models] == ["name", "x-step-00000010"]
    named = [model.name for model in plan(tmp_path, models=models).models]
    assert named[:3] == ["one-base", "two-base", "org-name"]
    with pytest.raises(ValueError, match="models are a, a: name each only once"):
        plan(tmp_path, models=["a", "a"])


def test_records_of_other_settings_are_refused(tmp_path):
    benchmark = plan(tmp_path)
    pretend_finished(benchmark.jobs[0], 0.7)
    check_results(plan(tmp_path, overrides=["seeds=[1, 2, 3]", "device=cpu", "protocol=mine"]))
    with pytest.raises(
        ValueError, match=r"/a/mnli/seed-1 ran with other settings: epochs was 3\.0, is 4\.0; rest"
    ):
        check_results(plan(tmp_path, overrides=["epochs=4"]))
    check_results(plan(tmp_path, overrides=["tasks.alone.epochs=4"]))


def test_weights_are_deleted_unless_another_task_needs_them(tmp_path):
    benchmark = plan(tmp_path)
    jobs = {job.name: job for job in benchmark.jobs}
    for name in ("a/mnli/seed-1", "a/alone/seed-3"):
        pretend_finished(jobs[name], 0.7)
        drop_weights(benchmark, jobs[name])
    assert (jobs["a/mnli/seed-1"].out / "model.safetensors").exists()
    assert not (jobs["a/alone/seed-3"].out / "model.safetensors").exists()
    assert jobs["a/alone/seed-3"].result() is not None
