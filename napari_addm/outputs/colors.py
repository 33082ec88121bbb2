"""Colors of maps, findings and ground truth: the same on the screen, in figures and on pages."""

from __future__ import annotations

GLOW = (
    (0.8, 0.0, 0.2, 0.0),
    (0.95, 0.25, 0.1, 0.35),
    (1.0, 0.65, 0.1, 0.7),
    (1.0, 0.95, 0.5, 0.8),
)
"""RGBA of an anomaly map over its scan, at equal distances from the lowest score to the highest.

Clear where nothing is, so that the scan shows through; half of it lies below the threshold."""

DARKER_BRIGHTER = (
    (0.55, 0.85, 1.0, 0.85),
    (0.0, 0.45, 0.95, 0.65),
    (0.0, 0.35, 0.85, 0.0),
    (0.85, 0.3, 0.0, 0.0),
    (0.95, 0.4, 0.0, 0.65),
    (1.0, 0.85, 0.4, 0.85),
)
DARKER_BRIGHTER_AT = (0.0, 0.25, 0.375, 0.625, 0.75, 1.0)
"""RGBA of what is darker (blue) and brighter (orange) than healthy brains, and its places between
the limits of `brightness_limits`: the threshold lies a quarter from each end, and what is below
half of it is clear, as in an anomaly map. People with red-green blindness tell both apart."""

FINDING_COLORS = ("#35e0ff", "#ff7bf2", "#9d9bff", "#ffe14d")
"""Far from gray, from the glow, from a ground truth, and from one to the next. Pictures take the
first for all."""

EARLIER_COLOR = "#9030d8"
"""Outlines of an earlier scan's findings: purple, unlike all other colors in anybody's eyes."""

BEHIND_BAR = 0.5
"""The gray of a brain behind a color bar, which so has the colors that are seen over one."""

# Okabe and Ito's colors, which people with red-green blindness can tell apart.
TRUTH_COLOR = "#009e73"
HIT_COLOR, FALSE_ALARM_COLOR, MISSED_COLOR = "#009e73", "#d55e00", "#56b4e9"


def map_limits(threshold: float | None) -> tuple[float, float]:
    """The scores that an anomaly map shows clear, and in its brightest color."""
    if not threshold or threshold <= 0:
        return 0.0, 1.0
    middle = min(max(threshold, 1e-30), 1e30)  # their distance has to be a number in float32
    return middle / 2, 2 * middle


def brightness_limits(threshold: float | None) -> tuple[float, float]:
    """The scores of the darkest and the brightest color of a brightness map: 0 is in the middle."""
    _, top = map_limits(threshold)
    return -top, top
