"""Figures and names as people read them: points with signs, times, sizes."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal

MINUS = "−"
NO_FIGURE = "–"


def number(value: float | None, digits: int = 1) -> str:
    """`56.3`; a dash for a figure that doesn't exist."""
    return NO_FIGURE if value is None else f"{value:,.{digits}f}".replace("-", MINUS)


def at_most(value: float | None, digits: int = 1) -> str:
    """A bound, rounded up so that what is printed holds too: `2.1` for 2.04."""
    if value is None:
        return NO_FIGURE
    return number(float(Decimal(str(value)).quantize(Decimal(1).scaleb(-digits), ROUND_CEILING)), digits)


def score(points: float | None, *, by_loss: bool) -> str:
    """A score as people know it: `56.3` points, or for a loss `1.234` bits per byte."""
    if points is None:
        return NO_FIGURE
    return number(-points / 100, 3) if by_loss else number(points)


def score_interval(low: float, high: float, *, by_loss: bool, joined: str = " to ") -> str:
    """The two ends of a score's interval, the smaller printed figure first."""
    ends = (high, low) if by_loss else (low, high)
    return joined.join(score(end, by_loss=by_loss) for end in ends)


def score_unit(*, by_loss: bool) -> str:
    """What a score is stated in."""
    return "bits per byte, lower is better" if by_loss else "points"


def signed(value: float | None, digits: int = 1) -> str:
    """`+2.1`, `−0.4`, `0.0`."""
    if value is None:
        return NO_FIGURE
    text = f"{abs(value):,.{digits}f}"
    return text if float(text.replace(",", "")) == 0 else f"{'+' if value > 0 else MINUS}{text}"


def span(least: float, most: float, digits: int = 1) -> str:
    """`2.1`, or `2.1 to 2.6` where the two ends are not printed alike."""
    ends = number(least, digits), number(most, digits)
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def percent(share: float) -> str:
    """`95 %`, `97.5 %`."""
    return f"{100 * share:g} %"


def count(value: float | None) -> str:
    """`9.77 M`, `1.2 k`, `512`."""
    if value is None:
        return NO_FIGURE
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.0f}"


def size(n_bytes: float | None) -> str:
    """`1.2 GiB`."""
    if n_bytes is None:
        return NO_FIGURE
    if n_bytes >= 2**30:
        return f"{n_bytes / 2**30:.1f} GiB"
    return f"{n_bytes / 2**20:.0f} MiB"


def duration(seconds: float | None) -> str:
    """`42 s`, `4 min 10 s`, `3 h 05 min`."""
    if seconds is None:
        return NO_FIGURE
    whole = round(seconds)
    if whole < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def hours(value: float | None) -> str:
    """`0.12 h`, `31 h`: device hours with two or three digits that count."""
    if value is None:
        return NO_FIGURE
    if 0 < value < 0.001:
        return "under 0.001 h"
    return f"{value:.0f} h" if value >= 100 else f"{value:.2g} h" if value < 10 else f"{value:.1f} h"


def money(value: float | None, currency: str) -> str:
    """`0.24 EUR`; small sums with two digits that count."""
    if value is None:
        return NO_FIGURE
    return f"{value:,.2f} {currency}" if value >= 0.1 or not value else f"{value:.2g} {currency}"


def listed(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
