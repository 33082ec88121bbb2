"""Products of volumes with banded matrices: convolutions and interpolations of one axis.

A dense product spends most of its time on zeros. A sparse one has no use for the vector units of
the processor. So the rows are taken some at a time, and of the columns those that they need.
"""

from __future__ import annotations

import numpy as np

from napari_addm.io.arrays import Grid

ROWS = 24
"""Taken at a time: fewer make small products, more take more zeros along."""


def multiply_along(axis: int, matrix: Grid, values: Grid) -> Grid:
    """Multiply a matrix with every line of a volume along one axis.

    Parameters
    ----------
    axis : {0, 1, 2}
    matrix : ndarray of float32, shape (m, n)
        Any matrix; the narrower its band, the sooner it is done.
    values : ndarray of float32, shape (D, H, W)
        n long along the axis.

    Returns
    -------
    ndarray of float32
        m long along the axis, and as long as ``values`` along the others.
    """
    values = np.ascontiguousarray(values)
    depth, height, width = values.shape
    shape = list(values.shape)
    shape[axis] = len(matrix)
    product = np.empty(shape, np.float32)
    for start in range(0, len(matrix), ROWS):
        rows = matrix[start : start + ROWS]
        part = slice(start, start + len(rows))
        there = np.flatnonzero(rows.any(axis=0))
        if not there.size:
            product[(slice(None),) * axis + (part,)] = 0
            continue
        near = slice(int(there[0]), int(there[-1]) + 1)
        rows = rows[:, near]
        if axis == 0:
            flat = product[part].reshape(len(rows), -1)
            np.matmul(rows, values[near].reshape(-1, height * width), out=flat)
        elif axis == 1:
            np.matmul(rows, values[:, near], out=product[:, part])
        else:
            flat = product.reshape(depth * height, -1)
            np.matmul(values.reshape(-1, width)[:, near], rows.T, out=flat[:, part])
    return product
