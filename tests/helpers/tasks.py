"""Tasks of tests that a tiny model learns in seconds: rows of letters, and the YAML file that names them."""

import json
import random
from pathlib import Path
from typing import Any

LETTERS = "abcdefghij"


def letter_rows(num_rows: int, seed: int, longest: int = 30) -> list[dict[str, Any]]:
    """Rows labelled by whether most letters are of the first half of the alphabet; `score` is how many are.

    `words` and `tags` are a row of kind tokens: names (capitals) are spans.
    """
    generator = random.Random(seed)
    rows = []
    for _ in range(num_rows):
        letters = generator.choices(LETTERS, weights=None, k=generator.randint(1, longest))
        share = sum(letter in "abcde" for letter in letters) / len(letters)
        words = [generator.choice(["Ada", "Bo", "sees", "and", "x"]) for _ in range(generator.randint(1, 8))]
        names = [word[0].isupper() for word in words]
        tags = [
            "O" if not name else "I-NAME" if number and names[number - 1] else "B-NAME"
            for number, name in enumerate(names)
        ]
        rows.append(
            {
                "text": "".join(letters),
                "other": generator.choice(["b", "a"]) * generator.randint(1, 5),
                "label": ["late", "early"][share > 0.5],
                "score": round(5 * share, 3),
                "words": words,
                "tags": tags,
            }
        )
    return rows


def write_suite(folder: Path, num_train: int = 64, num_valid: int = 32, **defaults: Any) -> Path:
    """Write rows and a suite of four tasks, `letters`, `pairs` (which starts from `letters`), `scores` and `names`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, num_rows, seed in (("train", num_train, 0), ("valid", num_valid, 1)):
        rows = letter_rows(num_rows, seed)
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"epochs": 1, "batch_size": 16, "learning_rate": 2e-3, "max_tokens": 64, "device": "cpu"}
    suite = {
        "defaults": {"files": {"train": "train.jsonl", "valid": "valid.jsonl"}, **settings, **defaults},
        "tasks": {
            "letters": {"text": "text", "labels": ["late", "early"]},
            "pairs": {"text": ["text", "other"], "labels": ["late", "early"], "start_from": "letters"},
            "scores": {"kind": "regression", "text": ["text", "other"], "label": "score"},
            "names": {
                "kind": "tokens",
                "text": "words",
                "label": "tags",
                "labels": ["O", "B-NAME", "I-NAME"],
            },
        },
    }
    (folder / "suite.yaml").write_text(json.dumps(suite))
    return folder / "suite.yaml"
