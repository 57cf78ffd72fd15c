"""Training by Composer."""

import torch  # noqa: F401  # before the block, in which it would not see all packages

from modernbert_train.common.lean_imports import lean_imports

with lean_imports():
    import composer  # noqa: F401
