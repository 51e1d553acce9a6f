"""Feature matrices in files and folders of them, whatever their format; `arrays` and `tables` read the formats.

`open_matrix` reads headers only; `Matrix.read` then yields (n, K) arrays of about matrix.CHUNK bytes, so memory does not
grow with N.
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from replicate.errors import UserError
from replicate.rank import arrays, matrix, tables
from replicate.rank.matrix import Matrix

KEYED = (".npz", ".pt", ".pth", ".safetensors", ".parquet")  # several arrays in a file
TABLES = (".csv", ".tsv", ".parquet")


def open_matrix(path, key: str | None = None, drop: tuple[str, ...] = ()) -> Matrix:
    """The matrix in a file, or in all files of a folder in sorted order. No row is read yet, the headers are.

    key: which array of an .npz, .pt or .safetensors, or which list column of a .parquet file, where there are several.
    drop: columns of a .csv or .parquet file that are no features. Raises UserError for all that is wrong with the file.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path, key, drop)
    if not path.exists():
        raise UserError(f"{path}: no such file; give the path of a file of features, or of a folder of them")
    if path.suffix.lower() not in READERS:
        raise UserError(f"{path}: files ending in '{path.suffix}' are not read; save the features as .npy (numpy.save) "
                        f"or as one of {', '.join(sorted(set(READERS) - {'.npy'}))}")  # fmt: skip
    if not path.stat().st_size:
        raise UserError(f"{path}: the file is empty; save the features again")
    for option, given, formats in (("--key", key, KEYED), ("--drop", drop, TABLES)):
        if given and path.suffix.lower() not in formats:
            raise UserError(f"{path}: {option} is for {', '.join(formats)} files; leave it out")
    with matrix.clear_errors(path):
        return READERS[path.suffix.lower()](path, key, drop)


def sample(matrix: Matrix, rows: int, limit: int, chunks: Iterable[np.ndarray] | None = None) -> np.ndarray:
    """At most `limit` of the matrix's `rows` rows, float64, in order: all, or a random part (seed 0).

    Of a stack a (views, samples, K) array with the same samples in each view. `chunks` if it is read already.
    """
    samples = rows // matrix.views
    kept = np.arange(samples)
    if rows > limit:
        kept = np.sort(np.random.default_rng(0).choice(samples, max(limit // matrix.views, 1), replace=False))
    wanted = np.concatenate([kept + view * samples for view in range(matrix.views)])
    array, start = None, 0
    for chunk in chunks or (chunk for chunk, _ in matrix.read()):
        if array is None:
            array = np.empty((len(wanted), matrix.width))  # float64: a later shard may be
        first, last = np.searchsorted(wanted, [start, start + len(chunk)])
        array[first:last] = chunk[wanted[first:last] - start]
        start += len(chunk)
    return array.reshape(matrix.views, len(kept), matrix.width) if matrix.views > 1 else array


def _folder(path, key, drop) -> Matrix:
    """All files of a folder whose format is read, in sorted order, as one matrix."""
    names = sorted(name for name in os.listdir(path) if not name.startswith("."))
    files = [path / name for name in names if Path(name).suffix.lower() in READERS]
    if not files:
        raise UserError(f"{path}: no file of features in this folder; they end in {', '.join(sorted(READERS))}")
    if len(files) < len(names):
        others = ", ".join(sorted(set(names) - {one.name for one in files}))
        print(f"{path}: {len(files)} files of features; left out: {others[:100]}", file=sys.stderr)
    shards = [open_matrix(one, key, drop) for one in files]
    for shard in shards:
        if shard.width != shards[0].width:
            raise UserError(f"{path}: {Path(shard.path).name} has width {shard.width} and {files[0].name} "
                            f"{shards[0].width}; the files of one folder make one matrix: give files of different "
                            "widths one by one")  # fmt: skip
        if len(shards) > 1 and shard.views > 1:
            raise UserError(f"{shard.path}: a stack of views in a folder of several files; give it by itself")
    rows = None if any(shard.rows is None for shard in shards) else sum(shard.rows for shard in shards)

    def read():
        for shard in shards:
            yield from shard.read()

    return Matrix(str(path), rows, shards[0].width, shards[0].views, sum(shard.size for shard in shards), read)


READERS = {".npy": arrays.npy, ".npz": arrays.npz, ".safetensors": arrays.safetensors, ".pt": arrays.torch_tensors,
           ".pth": arrays.torch_tensors, ".csv": tables.csv_table, ".tsv": tables.csv_table,
           ".parquet": tables.parquet}  # fmt: skip
