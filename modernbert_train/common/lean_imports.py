"""Quick imports of Composer and torchmetrics, which import at once all that any part of them may need.

What they find installed for plots, audio and scores by other language models takes a third of the time in which a rank
starts, and nothing here uses it.
"""

import importlib.metadata
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_NEEDLESS = ("matplotlib", "paramiko", "scipy", "transformers")


@contextmanager
def lean_imports() -> Iterator[None]:
    """Make needless packages look as if they were not installed, for imports of Composer or torchmetrics in this block.

    Packages that have been imported stay, and after the block, all can be imported.

    Yields:
        Nothing.
    """
    hidden = [name for name in _NEEDLESS if name not in sys.modules]
    distribution = importlib.metadata.distribution

    def visible_distribution(distribution_name: str) -> importlib.metadata.Distribution:
        if distribution_name in hidden:
            raise importlib.metadata.PackageNotFoundError(distribution_name)
        return distribution(distribution_name)

    sys.modules |= dict.fromkeys(hidden)  # type: ignore[arg-type]  # None makes an import fail
    importlib.metadata.distribution = visible_distribution  # torchmetrics asks for versions
    try:
        yield
    finally:
        importlib.metadata.distribution = distribution
        for name in hidden:
            del sys.modules[name]
