"""The rule that cuts the documents of a split into blocks, the unit that training reads and shuffles."""

import numpy as np
import numpy.typing as npt

BLOCK_DOCUMENTS = 128  # a block is full when it holds this many documents
BLOCK_TOKENS = 65_536  # or at least this many tokens, whichever comes first


def is_full(num_documents: int, num_tokens: int) -> bool:
    """Check whether a block takes no further document."""
    return num_documents == BLOCK_DOCUMENTS or num_tokens >= BLOCK_TOKENS


def cut_into_blocks(lengths: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Cut documents of known lengths into blocks: `is_full` for many documents at once.

    Args:
        lengths: [num_documents] tokens of every document, in order.

    Returns:
        Documents and tokens of every block: int64 [num_blocks, 2].
    """
    ends = np.cumsum(lengths, dtype=np.int64)
    blocks: list[tuple[int, int]] = []
    first = before = 0  # document and token where the block begins
    while first < len(ends):
        # the document that reaches BLOCK_TOKENS still belongs to the block
        full = int(np.searchsorted(ends, before + BLOCK_TOKENS)) + 1
        last = min(first + BLOCK_DOCUMENTS, full, len(ends))
        blocks.append((last - first, int(ends[last - 1]) - before))
        first, before = last, int(ends[last - 1])
    return np.array(blocks, np.int64).reshape(-1, 2)
