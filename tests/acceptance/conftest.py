import warnings

# Composer's imports set off deprecations of other libraries; what it does later is ours to answer for.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import composer  # noqa: F401
