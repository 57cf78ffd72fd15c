import tests.training.conftest  # noqa: F401  Composer is imported there, with its warnings silenced
