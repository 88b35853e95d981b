"""Closing prices from a CSV file, checked."""

import functools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.experiment.config import UsageError

_STAMPS = (("datetime",), ("timestamp",), ("date", "time"), ("date",), ("time",))
"""Columns that say when a row was: the first of these that a file has, two of them read as one."""


def read(csv: str) -> NDArray[np.float64]:
    """Closing prices float64 [rows] of a CSV file, oldest first, not to be written to.

    A column `Close` is wanted, in any case of letters. Where the file has one of dates or times, it has to increase.

    Raises:
      UsageError: there is no such file, no such column, a price is missing or not positive, or rows are out of order.
    """
    path = Path(csv)
    try:
        stat = path.stat()
    except OSError as error:
        raise UsageError(f"environment.kwargs.csv={csv!r} cannot be read: {error.strerror}") from None
    return _read(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=4)
def _read(path: Path, _modified: int, _size: int) -> NDArray[np.float64]:
    """Read once for all lanes of a process, and again if the file has changed."""
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:  # pandas' own errors of parsing are ValueErrors
        raise UsageError(f"{path} cannot be read as CSV: {' '.join(str(error).split())}") from None
    columns = {str(name).strip().lower(): name for name in table.columns}
    if "close" not in columns:
        raise UsageError(f"{path} has no column Close; it has {', '.join(map(str, table.columns))}")
    prices: NDArray[np.float64] = pd.to_numeric(table[columns["close"]], errors="coerce").to_numpy(
        np.float64, copy=True
    )
    wrong = ~(np.isfinite(prices) & (prices > 0.0))
    if wrong.any():
        row = int(wrong.argmax())
        value = table[columns["close"]].iloc[row]
        raise UsageError(f"{path}, line {row + 2}: Close is {value}, and a positive number is wanted in every row")
    _refuse_disorder(path, table, columns)
    prices.flags.writeable = False
    return prices


def _refuse_disorder(path: Path, table: Any, columns: dict[str, Any]) -> None:
    names = next((names for names in _STAMPS if columns.keys() >= set(names)), None)
    if names is None:
        return
    stamps = table[columns[names[0]]]
    if len(names) > 1:
        stamps = stamps.astype(str) + " " + table[columns[names[1]]].astype(str)
    readings = [reading for reading in _readings(stamps) if not np.isnan(reading).any()]
    if not readings:
        raise UsageError(f"{path}: what the column {columns[names[0]]} holds, such as {stamps.iloc[0]!r}, is no date")
    back = [np.flatnonzero(np.diff(reading) <= 0.0) for reading in readings]
    if all(rows.size for rows in back):
        line = int(min(rows[0] for rows in back)) + 3
        raise UsageError(f"{path}, line {line}: its date is not after the one before; sort the rows, oldest first")


def _readings(stamps: Any) -> list[NDArray[np.float64]]:
    """What the stamps may mean, as numbers that grow with time, NaN where one is no date: 01.02. may be of January."""
    if pd.api.types.is_numeric_dtype(stamps):
        return [stamps.to_numpy(np.float64)]
    readings = []
    for day_first in (False, True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pandas says that it guesses, which is what is wanted of it
            parsed = pd.to_datetime(stamps, errors="coerce", dayfirst=day_first, utc=True)
        seconds = (parsed - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
        readings.append(seconds.to_numpy(np.float64))
    return readings
