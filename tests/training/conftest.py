import tests.helpers.quiet_composer  # noqa: F401
