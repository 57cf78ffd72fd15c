"""Recipes and run folders, each of which a user may name in place of the other."""

import json
from pathlib import Path


def recipe_of(path: str) -> tuple[Path, list[str]]:
    """Return the recipe that a path names: the file, or that of a run folder.

    Args:
        path: as the user wrote it.

    Returns:
        The path of the YAML file, and overrides: a run folder stays the folder of the run, even if it was moved.

    Raises:
        ValueError: it is another folder.
    """
    from modernbert_train.checkpoints.run_files import RECIPE_FILE

    folder = Path(path)
    if not folder.is_dir():
        return folder, []
    if (folder / RECIPE_FILE).is_file():
        return folder / RECIPE_FILE, [f"run_folder={json.dumps(path, ensure_ascii=False)}"]
    files = sorted(folder.glob("*.yaml"))
    hint = f"one of its files, such as {files[0]}" if files else "a YAML file"
    raise ValueError(f"{path} is a folder, and not that of a run, which has a {RECIPE_FILE}; name {hint}")


def no_recipe(path: str) -> str:
    """Return the path of a run folder, a checkpoint or a model as it is.

    Args:
        path: as the user wrote it.

    Returns:
        The same path.

    Raises:
        ValueError: it does not exist, or is a recipe; the message names its run folder.
    """
    if not Path(path).exists():
        from modernbert_train.checkpoints.run_files import describe_missing

        raise ValueError(describe_missing(path))
    if not (path.endswith((".yaml", ".yml")) and Path(path).is_file()):
        return path
    from modernbert_train.config import load_recipe

    try:
        hint = f"the folder of its run, {load_recipe(path).run_folder}"
    except ValueError:  # another kind of YAML file, or a recipe that only overrides complete
        hint = "a run folder, a checkpoint or a model"
    raise ValueError(f"{path} is a YAML file, and not the folder of a run; name {hint}")


def sort_probe_arguments(arguments: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Sort arguments of `probe` into models, tasks and overrides, which may come in any order.

    What exists is a model, what has `=` an override. A name with `/` is a task if it begins with the name of a suite of
    the package, and otherwise a model: a path, or a name on the Hugging Face hub.

    Args:
        arguments: as the user wrote them.

    Returns:
        Models, tasks and overrides.
    """
    from modernbert_train.config.shipped import shipped_yamls

    suites = {path.stem for path in shipped_yamls("yamls/evaluation")}
    models, tasks, overrides = [], [], []
    for argument in arguments:
        in_file = ".yaml:" in argument or ".yml:" in argument
        if Path(argument).exists():
            models.append(argument)
        elif "=" in argument:
            overrides.append(argument)
        elif in_file or "/" not in argument or argument.partition("/")[0] in suites:
            tasks.append(argument)
        else:
            models.append(argument)
    return models, tasks, overrides


def job_folder(parent: str, model: str, task: str) -> Path:
    """Return the folder of a job whose user names none, such as `finetuned/MODEL/TASK`.

    Args:
        parent: of the folders of a command.
        model: as the user wrote it.
        task: name of the task.
    """
    path = Path(model)
    name = path.stem if path.suffix == ".pt" else path.name
    return Path(parent) / (name or "model") / task
