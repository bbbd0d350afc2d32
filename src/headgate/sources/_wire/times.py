"""Numbers that stand for dates, times and durations, as text that a person reads: ISO 8601, as PostgreSQL has it."""

from __future__ import annotations

import re
from datetime import date
from typing import Final

_EPOCH: Final = date(1970, 1, 1).toordinal()
_DAY_S: Final = 86_400
_INFINITE_MICROS: Final = {9223372036825200000: "infinity", -9223372036832400000: "-infinity"}
"""What Debezium makes of PostgreSQL's infinite timestamps."""
_PARTS: Final = re.compile(r"(-?\d+(?:\.\d+)?)([YMWDHS])|(T)")
_FRACTION: Final = re.compile(r"\.(\d*?)0*(?=Z|[+-]\d\d|$)")


def date_text(days: int) -> str:
    """Days since 1970-01-01 as `2026-11-21`; years before Christ as `0044-03-15 BC`."""
    try:
        return date.fromordinal(days + _EPOCH).isoformat()
    except (ValueError, OverflowError):
        year, month, day = _civil(days)
        era = " BC" if year < 1 else ""
        return f"{1 - year if year < 1 else year:04d}-{month:02d}-{day:02d}{era}"


def time_text(value: int, per_s: int) -> str:
    """A time of day in `per_s`ths of a second as `13:14:15.5`. More than a day, and less than none, are kept."""
    sign, value = ("-", -value) if value < 0 else ("", value)
    seconds, rest = divmod(value, per_s)
    return f"{sign}{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{_seconds(seconds % 60, rest, per_s, 2)}"


def timestamp_text(value: int, per_s: int) -> str:
    """`per_s`ths of a second since 1970 as `2026-11-21T02:01:15.5`, without a zone."""
    if per_s == 1_000_000 and value in _INFINITE_MICROS:
        return _INFINITE_MICROS[value]
    days, rest = divmod(value, _DAY_S * per_s)
    day, _, era = date_text(days).partition(" ")
    clock = time_text(rest, per_s)
    return f"{day} {clock} {era}" if era else f"{day}T{clock}"


def zoned_text(text: str) -> str:
    """A time or timestamp with its zone, without the zeros that end its fraction: `2026-11-21T01:01:15.5Z`."""
    return _FRACTION.sub(lambda found: f".{found[1]}" if found[1] else "", text, count=1)


def duration_text(value: int, per_s: int) -> str:
    """A length of time as `PT26H3.5S`."""
    sign, value = ("-", -value) if value < 0 else ("", value)
    seconds, rest = divmod(value, per_s)
    parts = [f"{sign}{count}{unit}" for count, unit in ((seconds // 3600, "H"), (seconds // 60 % 60, "M")) if count]
    if seconds % 60 or rest or not parts:
        parts.append(f"{sign if seconds % 60 or rest else ''}{_seconds(seconds % 60, rest, per_s, 1)}S")
    return "PT" + "".join(parts)


def interval_text(text: str) -> str:
    """An ISO duration without the parts that are nothing: `P0Y0M1DT2H0M3.5S` as `P1DT2H3.5S`."""
    kept: list[str] = []
    clock: list[str] = []
    seen_t = False
    for number, unit, mark in _PARTS.findall(text):
        if mark:
            seen_t = True
        elif float(number):
            plain = number.rstrip("0").rstrip(".") if "." in number else number
            (clock if seen_t else kept).append(plain + unit)
    if not kept and not clock:
        return "PT0S"
    return "P" + "".join(kept) + ("T" + "".join(clock) if clock else "")


def _seconds(whole: int, rest: int, per_s: int, width: int) -> str:
    if not rest:
        return f"{whole:0{width}d}"
    digits = len(str(per_s)) - 1
    return f"{whole:0{width}d}." + f"{rest:0{digits}d}".rstrip("0")


def _civil(days: int) -> tuple[int, int, int]:
    """Year (0 is 1 BC), month and day in the proleptic Gregorian calendar.

    http://howardhinnant.github.io/date_algorithms.html#civil_from_days
    """
    days += 719_468
    era, day_of_era = divmod(days, 146_097)
    year_of_era = (day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    month = shifted + 3 if shifted < 10 else shifted - 9
    return year_of_era + era * 400 + (month <= 2), month, day_of_year - (153 * shifted + 2) // 5 + 1
