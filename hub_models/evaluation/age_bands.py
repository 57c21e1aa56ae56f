"""Bands of age by which metrics and thresholds are given."""

from math import inf

AGE_BANDS = ((0, 15), (15, 35), (35, 55), (55, inf))  # years, the upper end left out


def age_band(age_years: float | None) -> str:
    """Return the band of an age, such as "15-34"; "unknown" for None."""
    if age_years is None:
        return "unknown"
    low, high = next(band for band in AGE_BANDS if band[0] <= age_years < band[1])
    return f"{low:02d}-{high - 1}" if high < inf else f"{low} and over"
