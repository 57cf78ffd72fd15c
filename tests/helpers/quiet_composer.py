"""Import Composer and silence the deprecation warnings of its imports; warnings of later calls stay errors."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import composer  # noqa: F401
