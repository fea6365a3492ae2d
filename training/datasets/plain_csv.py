"""Plain CSV as a recording: units are part of the column names, or of a small TOML file; nothing is guessed.

A unit that cannot be the right one is refused: the acceleration of whoever lives on Earth is about 9.8 m/s² most of the
time, and no sensor that is worn measures more than 70 rad/s.

A heading may say all: ``time_s, wrist_left.acc_m_s2.x, ..., wrist_left.gyr_deg_s.z, label``. For other headings::

    subject = "p01"
    rate_hz = 50.0                              # or time = { column = "t", unit = "ms" }
    label = "activity"                          # optional: text, empty where there is none
    [columns]
    "Acc X (g)" = { to = "wrist_left.acc_x", unit = "g" }
"""

from __future__ import annotations

import csv
import difflib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kinedge.config import Config, load_toml
from kinedge.errors import SignalError
from kinedge.recording import Recording, Region
from kinedge.signals import Quantity, SensorSpec, quantity_of, split_channel
from kinedge.training.datasets.source import MAX_ROWS
from kinedge.units import STANDARD_GRAVITY_M_S2

__all__ = ["ColumnConfig", "CsvConfig", "TimeConfig", "load_csv"]

F64 = NDArray[np.float64]
_SI: Final[dict[Quantity, dict[str, float]]] = {
    Quantity.ACC: {"m_s2": 1.0, "g": STANDARD_GRAVITY_M_S2, "mg": STANDARD_GRAVITY_M_S2 / 1000},
    Quantity.GYR: {"rad_s": 1.0, "deg_s": np.pi / 180, "mdeg_s": np.pi / 180_000},
    Quantity.MAG: {"uT": 1.0, "nT": 1e-3, "G": 100.0, "mG": 0.1},
}
_OTHER_WORDS: Final = {
    "m/s^2": "m_s2", "m/s2": "m_s2", "m/s²": "m_s2", "ms2": "m_s2", "m_s_2": "m_s2", "rad/s": "rad_s", "rads": "rad_s",
    "deg/s": "deg_s", "dps": "deg_s", "°/s": "deg_s", "µt": "uT", "μt": "uT", "ut": "uT", "gauss": "G",
}  # fmt: skip
_USUAL_SHARE: Final = 0.6  # the rest may be gaps
_ENOUGH: Final = 100  # samples, of which a unit can be judged
_GRAVITY_M_S2: Final = (6.0, 16.0)  # the middle of the magnitudes, lying still or running
_NO_BODY_M_S2: Final = 40.0  # the same: nobody bears four times their weight all the time
_NO_SENSOR_RAD_S: Final = 70.0  # the widest range there is, 4000 deg/s
_SECONDS: Final = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_HEADING: Final = re.compile(r"([a-z][a-z0-9_]*)\.(acc|gyr|mag)(?:_([^.]*))?\.([xyz])")
_TIME_HEADING: Final = re.compile(r"time(?:_(.*))?")


class ColumnConfig(Config):
    """Where a column goes, and its unit."""

    to: str = Field(description="such as wrist_left.acc_x")
    unit: str


class TimeConfig(Config):
    """The column of sample times."""

    column: str
    unit: str = Field(description="s, ms, us or ns")


class CsvConfig(Config):
    """What the columns of a CSV file are."""

    columns: dict[str, ColumnConfig] = Field(min_length=1)
    time: TimeConfig | None = None
    rate_hz: float | None = Field(default=None, gt=0, le=10_000)
    label: str | None = None
    subject: str = "unknown"
    session: str = ""
    delimiter: str = Field(default=",", min_length=1, max_length=1)


@dataclass(frozen=True)
class _Column:
    index: int
    channel: str
    scale: float
    unit: str


def load_csv(path: Path, *, mapping: CsvConfig | Path | None = None, rate_hz: float | None = None) -> Recording:
    """Load one CSV file.

    Parameters
    ----------
    mapping
        What the columns are; None: the heading says it.
    rate_hz
        Of the samples; needed where there is no column of times, and a correction of what the times say otherwise.

    Returns
    -------
    Recording
        On a regular grid: a sample goes to the nearest tick; ticks without one, empty cells and what is no finite
        number are invalid. Channels in the order acc, gyr, mag; x, y, z.

    Raises
    ------
    SignalError
        A unit is missing, unknown or cannot be the right one, a column is missing, a cell is no number, times go back
        or are too irregular for a grid.
    ConfigError
        The mapping is no valid TOML.
    """
    config = load_toml(mapping, CsvConfig) if isinstance(mapping, Path) else mapping
    heading, cells = _read(path, config.delimiter if config else ",")
    if config is None:
        config = _from_heading(heading, path)
    missing = [c for c in (*config.columns, *filter(None, [config.label])) if c not in heading]
    if config.time is not None and config.time.column not in heading:
        missing.append(config.time.column)
    if missing:
        raise SignalError(f"{path}: no column {_suggested(missing[0], heading)}")
    columns = _columns(config, heading, path)
    raw = np.stack([_numbers(cells[c.index], path, heading[c.index]) for c in columns], axis=1)
    raw *= [c.scale for c in columns]
    rate = rate_hz or config.rate_hz
    if config.time is None:
        if rate is None:
            raise SignalError(f"{path}: neither a column such as time_s nor a rate: give rate_hz")
        tick = np.arange(len(raw))
    else:
        seconds = _numbers(cells[heading.index(config.time.column)], path, config.time.column)
        unit = _SECONDS.get(config.time.unit)
        if unit is None:
            known = ", ".join(_SECONDS)
            raise SignalError(f"{path}: time unit {_suggested(config.time.unit, list(_SECONDS))}; known are {known}")
        tick, rate = _grid(seconds * unit, rate, path)
    n = int(tick[-1]) + 1
    specs, order = _sensors(columns)
    values, valid = np.zeros((n, len(columns)), np.float32), np.zeros((n, len(columns)), bool)
    finite = np.isfinite(raw[:, order]) & (np.abs(raw[:, order]) < np.finfo(np.float32).max)
    _check_units(np.where(finite, raw[:, order], np.nan), [columns[i] for i in order], specs, path)
    values[tick] = np.where(finite, raw[:, order], 0)
    valid[tick] = finite
    labels = _labels(cells[heading.index(config.label)], tick) if config.label else ()
    return Recording(specs, rate, values, valid, labels, config.subject, config.session or path.stem, str(path))


def _read(path: Path, delimiter: str) -> tuple[list[str], list[tuple[str, ...]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file, delimiter=delimiter)
            heading = [cell.strip() for cell in next(rows, [])]
            lines: list[list[str]] = []
            for line in rows:
                if len(line) != len(heading) and any(cell.strip() for cell in line):
                    raise SignalError(f"{path}: line {rows.line_num} has {len(line)} cells, not {len(heading)}")
                if len(line) == len(heading):
                    lines.append(line)
                if len(lines) > MAX_ROWS:
                    raise SignalError(f"{path}: more than {MAX_ROWS:,} lines; cut it into sessions first")
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise SignalError(f"{path}: cannot be read as CSV ({e})") from e
    if not lines or len(set(heading)) != len(heading):
        raise SignalError(f"{path}: needs a heading of distinct names and at least one line below it")
    return heading, list(zip(*lines, strict=True))


def _from_heading(heading: list[str], path: Path) -> CsvConfig:
    columns, time = {}, None
    for name in heading:
        match, is_time = _HEADING.fullmatch(name), _TIME_HEADING.fullmatch(name)
        if match:
            unit = match[3]
            if not unit:
                units = " or ".join(f"{match[1]}.{match[2]}_{u}.{match[4]}" for u in _units(match[2]))
                raise SignalError(f"{path}: column {name!r} tells no unit; call it {units}")
            columns[name] = ColumnConfig(to=f"{match[1]}.{match[2]}_{match[4]}", unit=unit)
        elif is_time:
            if not is_time[1]:
                raise SignalError(f"{path}: column 'time' tells no unit; call it time_s, time_ms, time_us or time_ns")
            time = TimeConfig(column=name, unit=is_time[1])
        elif name != "label":
            raise SignalError(
                f"{path}: column {name!r} says not what it is; call it such as wrist_left.acc_m_s2.x, time_s or label, "
                "or give a mapping"
            )
    if not columns:
        raise SignalError(f"{path}: no column of a sensor in it, such as wrist_left.acc_m_s2.x")
    return CsvConfig(columns=columns, time=time, label="label" if "label" in heading else None)


def _units(quantity: str) -> tuple[str, ...]:
    return tuple(_SI[Quantity[quantity.upper()]])


def _suggested(wrong: str, known: list[str]) -> str:
    near = difflib.get_close_matches(wrong, known, n=1, cutoff=0.5)
    return f"{wrong!r}" + (f"; did you mean {near[0]!r}?" if near else "")


def _columns(config: CsvConfig, heading: list[str], path: Path) -> list[_Column]:
    columns = []
    for name, column in config.columns.items():
        quantity = quantity_of(split_channel(column.to)[1])
        scale = _SI[quantity].get(column.unit)
        if scale is None:
            units = list(_SI[quantity])
            near = _OTHER_WORDS.get(column.unit.lower())
            hint = f"{column.unit!r}; did you mean {near!r}?" if near in units else _suggested(column.unit, units)
            raise SignalError(f"{path}: {name}: unit {hint} {quantity.name.lower()} is in {', '.join(units)}")
        columns.append(_Column(heading.index(name), column.to, scale, column.unit))
    channels = [c.channel for c in columns]
    twice = sorted({c for c in channels if channels.count(c) > 1})
    if twice:
        raise SignalError(f"{path}: two columns for {', '.join(twice)}")
    return columns


def _sensors(columns: list[_Column]) -> tuple[tuple[SensorSpec, ...], list[int]]:
    """Return sensors in the order of the file, and the order of columns: by sensor, then quantity and axis."""
    names = list(dict.fromkeys(split_channel(c.channel)[0] for c in columns))

    def rank(i: int) -> tuple[int, int, str]:
        sensor, channel = split_channel(columns[i].channel)
        return names.index(sensor), int(quantity_of(channel)), channel

    order = sorted(range(len(columns)), key=rank)
    channels: dict[str, list[str]] = {name: [] for name in names}
    for i in order:
        sensor, channel = split_channel(columns[i].channel)
        channels[sensor].append(channel)
    return tuple(SensorSpec(name, tuple(channels[name])) for name in names), order


def _check_units(values: F64, columns: list[_Column], specs: tuple[SensorSpec, ...], path: Path) -> None:
    """Refuse a unit that cannot be the right one; values (n, C) in SI units, in the order of the columns."""
    at = 0
    for spec in specs:
        part = slice(at, at := at + len(spec.channels))
        for quantity in (Quantity.ACC, Quantity.GYR):
            of = [i for i in range(*part.indices(at)) if quantity_of(split_channel(columns[i].channel)[1]) is quantity]
            known = values[:, of][np.isfinite(values[:, of]).all(axis=1)]
            units = {columns[i].unit for i in of}
            if len(of) != 3 or len(known) < _ENOUGH or len(units) > 1:
                continue
            (unit,) = units
            size = np.linalg.norm(known, axis=1)
            as_unit = {name: s / _SI[quantity][unit] for name, s in _SI[quantity].items()}
            if quantity is Quantity.ACC:
                low, high = _GRAVITY_M_S2
                middle = float(np.median(size))
                better = [name for name, s in as_unit.items() if low <= middle * s <= high]
                if unit in better or (not better and middle <= _NO_BODY_M_S2):
                    continue
                what = f"acceleration is {middle:.3g} m/s² in the middle, where gravity alone is 9.8"
                gravity = " or was gravity taken off? it is needed" if middle < low else ""
            else:
                most = float(np.percentile(size, 99))
                better = [name for name, s in as_unit.items() if most * s <= _NO_SENSOR_RAD_S][:1]
                if most <= _NO_SENSOR_RAD_S:
                    continue
                what, gravity = f"angular rate reaches {most:.3g} rad/s, which no sensor measures", ""
            hint = f"is it in {better[0]}?{gravity}" if better else "which unit is it in? raw counts need a scale"
            raise SignalError(f"{path}: {spec.name}: as {unit}, {what}: {hint}")


def _numbers(cells: tuple[str, ...], path: Path, name: str) -> NDArray[np.float64]:
    try:
        return np.array([cell if cell.strip() else "nan" for cell in cells], dtype=np.float64)
    except ValueError as e:
        raise SignalError(f"{path}: column {name!r} holds what is no number ({e})") from e


def _grid(seconds: NDArray[np.float64], rate_hz: float | None, path: Path) -> tuple[NDArray[np.int64], float]:
    """Return the tick of each sample, strictly increasing, and the rate."""
    steps = np.diff(seconds)
    if len(seconds) < 2 or not np.isfinite(seconds).all() or not (steps > 0).all():
        bad = int(np.flatnonzero(~(steps > 0))[0]) + 3 if len(steps) and not (steps > 0).all() else 2
        raise SignalError(f"{path}: times must be finite and increase; they do not at line {bad}")
    usual = steps[np.abs(steps / np.median(steps) - 1) < 0.5]
    if rate_hz is None and len(usual) < _USUAL_SHARE * len(steps):
        raise SignalError(
            f"{path}: only {len(usual)} of {len(steps)} steps in time are about alike: the times are too irregular to "
            "tell a rate; give rate_hz"
        )
    rate = rate_hz or float(1 / usual.mean())
    if (seconds[-1] - seconds[0]) * rate >= MAX_ROWS:
        raise SignalError(
            f"{path}: its times span more than {MAX_ROWS:,} samples of {rate:g} Hz; cut it into sessions, or check the "
            "unit of time"
        )
    tick = np.rint((seconds - seconds[0]) * rate).astype(np.int64)
    if not (np.diff(tick) > 0).all():
        share = float((np.diff(tick) <= 0).mean())
        raise SignalError(
            f"{path}: {share:.1%} of the samples fall on a tick of {rate:g} Hz that is taken: the times are too "
            "irregular for a grid; give the true rate_hz, or put one clock's samples into one file"
        )
    return tick, rate


def _labels(cells: tuple[str, ...], tick: NDArray[np.int64]) -> tuple[Region, ...]:
    """Return stretches of equal text; a gap in the samples inside one belongs to it."""
    labels: list[Region] = []
    open_label = ""
    for text, at in zip(cells, tick, strict=True):
        text = text.strip()
        if text and text == open_label:
            labels[-1] = replace(labels[-1], end=int(at) + 1)
        elif text:
            labels.append(Region(int(at), int(at) + 1, text))
        open_label = text
    return tuple(labels)
