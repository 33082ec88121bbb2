"""Colors that mean something can be told apart, also by people who see fewer of them."""

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from napari_addm.outputs import colors

# From linear RGB to what is seen without one kind of cone (Machado, Oliveira, Fernandes 2009).
SEEN = {
    "all": np.eye(3),
    "no red": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "no green": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    "no blue": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}
# A difference of 2 is seen beside each other.
CLEARLY = 12


def lab(color: str, cones: str) -> np.ndarray:
    shades = np.array([int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    linear = np.where(shades <= 0.04045, shades / 12.92, ((shades + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.asarray(SEEN[cones]) @ linear, 0, 1)
    return rgb2lab(np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055))


@pytest.mark.parametrize("cones", SEEN)
def test_earlier_findings_look_like_nothing_else(cones: str) -> None:
    glow = ["#" + "".join(f"{round(255 * part):02x}" for part in rgba[:3]) for rgba in colors.GLOW]
    others = [
        *colors.FINDING_COLORS,
        colors.TRUTH_COLOR,
        colors.FALSE_ALARM_COLOR,
        colors.MISSED_COLOR,
        "#ffffff",  # the selected finding
        "#808080",  # the brain
        *glow,
    ]
    earlier = lab(colors.EARLIER_COLOR, cones)
    differences = {other: deltaE_ciede2000(earlier, lab(other, cones)) for other in others}
    assert min(differences.values()) > CLEARLY, differences
