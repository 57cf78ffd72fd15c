"""`schema.py` is the reference page of recipes: every section and every field is explained where it is defined."""

import ast
import dataclasses
from pathlib import Path

from modernbert_train.config import PhaseConfig, schema
from modernbert_train.config.schema import INHERITED_FIELDS

SOURCE = Path(schema.__file__).read_text(encoding="utf-8")


def unexplained(source: str) -> list[str]:
    """Return the classes without a docstring, and their fields without a comment above or beside them."""
    lines = source.splitlines()
    found = []
    for section in ast.parse(source).body:
        if not isinstance(section, ast.ClassDef):
            continue
        if not ast.get_docstring(section):
            found.append(section.name)
        for field in section.body:
            if isinstance(field, ast.AnnAssign):
                above, beside = lines[field.lineno - 2].strip(), lines[field.lineno - 1]
                if not above.startswith("# ") and "  # " not in beside:
                    found.append(f"{section.name}.{ast.unparse(field.target)}")
    return found


def test_every_section_and_field_is_explained():
    assert unexplained(SOURCE) == []


def test_a_new_field_or_section_without_words_is_found():
    commented = "    # Fraction replaced by [MASK].\n    mask_fraction"
    assert commented in SOURCE
    assert unexplained(SOURCE.replace(commented, "    mask_fraction")) == ["MaskingConfig.mask_fraction"]
    assert unexplained(f"{SOURCE}\nclass New:\n    field: int  # explained\n    other: int\n") == [
        "New",
        "New.other",
    ]


def test_a_phase_has_the_inherited_fields_and_its_own():
    names = [field.name for field in dataclasses.fields(PhaseConfig)]
    assert {"batch_tokens", "learning_rate", "mixture", "mask_rate"} < set(INHERITED_FIELDS) < set(names)
    assert not {"tokens", "warmup_tokens", "decay_tokens", "batch_ramp"} & set(INHERITED_FIELDS)
