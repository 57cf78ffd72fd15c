"""The .npy files of a store, read in parts, for they can be larger than memory."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

import numpy as np

from modernbert_train.common.text import one_line

# Smaller files are held in memory, so that a store of very many sources does not hold as many files open.
_IN_MEMORY_BYTES = 1 << 18
_REMEDY = "restore it from a copy, or prepare the store again"


class ArrayFile:
    """An array in a .npy file, with rows of one size.

    The file is read, not mapped: if one that is mapped is shortened, the kernel kills the process that reads it.

    Args:
        file: of version 1 or 2 of the format, as `np.save` writes it.
        dtype: of the values.
        width: values of a row; None: the array has one dimension.

    Raises:
        ValueError: The file does not hold such an array, and nothing else.
    """

    def __init__(self, file: Path, dtype: str, width: int | None = None) -> None:
        self._file = file
        self._dtype = np.dtype(dtype)
        self._row = () if width is None else (width,)
        self._row_bytes = self._dtype.itemsize * (width or 1)
        try:
            descriptor = os.open(file, os.O_RDONLY)
        except OSError as error:
            raise ValueError(f"store: {file} cannot be read ({error.strerror}); {_REMEDY}") from error
        weakref.finalize(self, os.close, descriptor)
        self._descriptor = descriptor
        self.num_rows, self._start = self._read_header()
        self._content: np.ndarray | None = None
        if self.num_rows * self._row_bytes <= _IN_MEMORY_BYTES:
            self._content = self._read(0, self.num_rows)

    def _read_header(self) -> tuple[int, int]:
        """Return the number of rows and the byte of the first one."""
        with open(os.dup(self._descriptor), "rb") as opened:
            try:
                version = np.lib.format.read_magic(opened)
                read = {
                    (1, 0): np.lib.format.read_array_header_1_0,
                    (2, 0): np.lib.format.read_array_header_2_0,
                }
                shape, by_columns, dtype = read[version](opened)
            except Exception as error:  # numpy's parser raises whatever the header leads it to
                raise ValueError(
                    f"store: {self._file} is damaged (its header: {one_line(error)}); {_REMEDY}"
                ) from error
            start, num_bytes = opened.tell(), os.fstat(self._descriptor).st_size
        if dtype != self._dtype or by_columns or len(shape) != 1 + len(self._row) or shape[1:] != self._row:
            wanted = ", ".join(["ROWS", *map(str, self._row)])
            raise ValueError(
                f"store: {self._file} holds {dtype} {shape}{' by columns' * by_columns} instead of {self._dtype} "
                f"({wanted}); {_REMEDY}"
            )
        if start + shape[0] * self._row_bytes != num_bytes:
            raise ValueError(
                f"store: {self._file} has {num_bytes:,} bytes, its header says {start + shape[0] * self._row_bytes:,}; "
                f"{_REMEDY}"
            )
        return shape[0], start

    def read(self, first: int = 0, count: int | None = None) -> np.ndarray:
        """Return `count` rows (default: all) from number `first` on, fewer at the end of the file.

        Args:
            first: number of the first row.
            count: number of rows.

        Returns:
            An array [rows] or [rows, width], not to be written to.
        """
        stop = self.num_rows if count is None else min(first + count, self.num_rows)
        if self._content is not None:
            return self._content[first:stop]
        return self._read(first, max(0, stop - first))

    def _read(self, first: int, count: int) -> np.ndarray:
        rows = np.empty((count, *self._row), self._dtype)
        if count:
            left = rows.reshape(-1).view(np.uint8).data
            offset = self._start + first * self._row_bytes
            while left:
                num_read = os.preadv(self._descriptor, [left], offset)
                if not num_read:
                    raise ValueError(
                        f"store: {self._file} ends at byte {offset:,}: it was shortened while in use; {_REMEDY}"
                    )
                left, offset = left[num_read:], offset + num_read
        return rows
