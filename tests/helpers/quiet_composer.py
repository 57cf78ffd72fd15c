"""Import Composer as training does, and silence the warnings of its imports; warnings of later calls stay errors."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import modernbert_train.training  # noqa: F401
