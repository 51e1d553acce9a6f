"""Feature matrices in tables: .csv, .tsv, .parquet. A reader takes (path, key, drop) and gives a Matrix."""

import csv
import itertools
import sys

import numpy as np

from replicate.errors import UserError
from replicate.rank import matrix
from replicate.rank.matrix import LISTED, Matrix


def csv_table(path, key, drop) -> Matrix:
    separator, names, header = _csv_head(path)
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"{path}: two columns are called '{twice[0]}': rename one")
    kept = _kept(path, names, drop)
    if header and "" in kept:
        raise UserError(f"{path}: column {names.index('') + 1} has no name, as an index that pandas wrote: leave it "
                        "out by --drop '' if it is no feature, else name it")  # fmt: skip
    return Matrix(str(path), None, len(kept), 1, path.stat().st_size,
                  lambda: _csv_chunks(path, separator, names, kept, header))  # fmt: skip


def _csv_head(path) -> tuple[str, list[str], int]:
    """Separator, column names (numbers from 1 where there is no header) and how many lines the header ends at, or 0.

    A header is a line without numbers, or with text where the next line has a number, or whose numbers are 0, 1, 2, … or
    1, 2, 3, …: the names that programs give to columns without any.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        told = ((place, line.strip("\r\n")) for place, line in enumerate(file, 1) if line.strip())
        lines = list(itertools.islice(told, 2))
    if not lines:
        raise UserError(f"{path}: has blank lines only; save the features again")
    first, line = lines[0]
    separator = max(",;\t", key=line.count)
    if separator not in line and " " in line.strip():
        separator = r"\s+"
    fields, below = (_fields(text, separator) for text in (line, lines[-1][1]))
    numbers = [field for field in fields if _is_number(field)]
    counted = len(numbers) > 1 and numbers in ([str(i + start) for i in range(len(numbers))] for start in (0, 1))
    named = any(not _is_number(field) and _is_number(value) for field, value in zip(fields, below))
    if counted or named or not numbers:
        return separator, fields, first
    return separator, [str(place + 1) for place in range(len(fields))], 0


def _fields(line: str, separator: str) -> list[str]:
    fields = line.split() if separator == r"\s+" else next(csv.reader([line], delimiter=separator))
    return [field.strip() for field in fields]


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _kept(path, names: list[str], drop) -> list[str]:
    unknown = [name for name in drop if name not in names]
    if unknown:
        raise UserError(f"{path}: no column '{unknown[0]}' to leave out; the first are {', '.join(names[:LISTED])}")
    kept = [name for name in names if name not in drop]
    if not kept:
        raise UserError(f"{path}: no column is left; leave fewer out")
    return kept


def _csv_chunks(path, separator, names, kept, header):
    import pandas as pd

    with matrix.clear_errors(path), open(path, "rb") as file:
        # without names or usecols, which would make pandas drop what a row has too much
        try:
            reader = pd.read_csv(file, sep=separator, header=None, skiprows=header, chunksize=matrix.rows_of(len(names), 8),
                                 encoding="utf-8-sig", low_memory=False)  # fmt: skip
        except pd.errors.EmptyDataError:
            raise UserError(f"{path}: has a header and no rows; save the features again") from None
        before = 0
        for frame in reader:
            if frame.shape[1] != len(names):
                raise UserError(f"{path}: {len(names)} names in the header and {frame.shape[1]} columns below it: "
                                "correct the header")  # fmt: skip
            frame.columns = names
            for name in kept:
                if frame[name].dtype.kind not in "fiub":
                    _not_numeric(path, frame[name])
            if not before:
                _whole_numbers(path, {name: frame[name].dtype.kind for name in kept})
            done = file.tell()
            yield frame[kept].to_numpy(dtype=np.float64), done - before
            before = done


def _not_numeric(path, column) -> None:
    import pandas as pd

    bad = column[pd.to_numeric(column, errors="coerce").isna() & column.notna()]
    value = f", such as '{str(bad.iloc[0])[:30]}'" if len(bad) else ""
    raise UserError(f"{path}: column '{column.name}' holds text{value}: leave it out by --drop '{column.name}'")


def _whole_numbers(path, kinds: dict[str, str]) -> None:
    """Say so where one or two columns of whole numbers stand among others: labels or indices, by the look of them."""
    whole = [name for name, kind in kinds.items() if kind != "f"]
    if 0 < len(whole) <= 2 and len(whole) < len(kinds) / 2:
        print(f"{path}: column {' and '.join(whole)} holds whole numbers, unlike the others; it counts as a feature "
              f"unless left out by --drop {','.join(whole)}", file=sys.stderr)  # fmt: skip


def parquet(path, key, drop) -> Matrix:
    import pyarrow as pa
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
    kept = [field for field in schema if field.name in _kept(path, schema.names, drop)]
    lists = {field.name: () for field in kept if _is_list(pa.types, field.type)}
    if key is not None and key not in lists:
        raise UserError(f"{path}: no column '{key}' of lists of numbers; there are {', '.join(lists) or 'none'}")
    if len(lists) > 1 and key is None:
        listing = ", ".join(list(lists)[:LISTED])
        raise UserError(f"{path}: several columns of lists; choose one by --key NAME: {listing}")
    if not rows:
        raise UserError(f"{path}: has no rows; save the features again")
    if lists:
        return _list_column(path, key or next(iter(lists)), rows)
    for field in kept:
        if not _is_real(pa.types, field.type):
            raise UserError(f"{path}: column '{field.name}' holds {field.type}: leave it out by --drop '{field.name}'")
    _whole_numbers(path, {field.name: "f" if pa.types.is_floating(field.type) else "i" for field in kept})
    names = [field.name for field in kept]

    def read(views, rows, width, step):
        for batch in _batches(path, names, step):
            yield np.column_stack([batch.column(name).to_numpy(zero_copy_only=False) for name in names])

    return matrix.of_array(path, (rows, len(names)), matrix.rows_of(len(names), 8), read)


def _is_real(types, kind) -> bool:
    return types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind)


def _is_list(types, kind) -> bool:
    one = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return one and _is_real(types, kind.value_type)


def _batches(path, names, rows):
    """Streamed: neither the file nor a row group is held whole, but some 3 MB a column are."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path, buffer_size=2**16, pre_buffer=False) as file:
        yield from file.iter_batches(batch_size=rows, columns=names)


def _list_column(path, name, rows) -> Matrix:
    width = len(next(_batches(path, [name], 1)).column(0)[0].as_py() or ())
    if not width:
        raise UserError(f"{path}: the first list of column '{name}' is empty; one list of one length a row is needed")

    def read(views, rows, width, step):
        for batch in _batches(path, [name], step):
            column = batch.column(0)
            values = column.flatten()
            lengths = column.value_lengths().to_numpy(zero_copy_only=False)
            if column.null_count or (lengths != width).any():
                raise UserError(f"{path}: the lists of column '{name}' differ in length; one length is needed")
            yield values.to_numpy(zero_copy_only=False).reshape(len(column), width)

    return matrix.of_array(path, (rows, width), matrix.rows_of(width, 8), read)
