"""Best-fit decreasing, the simple way: look at every open row."""


def pack_slowly(lengths: list[int], row_tokens: int) -> list[int]:
    """Return the free slots of the rows after packing, sorted, because ties between equally full rows may differ."""
    free: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [row for row in range(len(free)) if free[row] >= length]
        if fitting:
            free[min(fitting, key=lambda row: free[row])] -= length
        else:
            free.append(row_tokens - length)
    return sorted(free)
