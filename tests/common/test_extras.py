import re

import pytest

from modernbert_train.common.extras import require_extra


def test_what_is_missing_is_named_with_the_command_that_installs_it():
    require_extra("evaluation", "packaging", "PyYAML")
    with pytest.raises(
        ValueError, match=r"^no-such-a is not installed; it comes .* `pip install no-such-a`$"
    ):
        require_extra("onnx", "no-such-a", "packaging")
    text = (
        "no-such-a and no-such-b are not installed; they come with the extra `evaluation`: run `pip install "
        "--no-deps -r requirements-evaluation.lock` in the repository, or `pip install no-such-a no-such-b`"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        require_extra("evaluation", "no-such-a", "no-such-b")
