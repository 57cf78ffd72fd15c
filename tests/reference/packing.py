"""Best fit decreasing the obvious way: look at every open row."""


def pack_slowly(lengths: list[int], row_tokens: int) -> list[int]:
    """Free slots of the rows after packing, sorted: which of two equally full rows takes a piece is left open."""
    free: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [row for row in range(len(free)) if free[row] >= length]
        if fitting:
            free[min(fitting, key=lambda row: free[row])] -= length
        else:
            free.append(row_tokens - length)
    return sorted(free)
