"""What must hold of every damaged scan."""

from pathlib import Path

from fuzz.mutate import or_words
from numpy.testing import assert_array_equal

from napari_addm.io.reading import read_grid, read_labels, read_volume
from napari_addm.io.writing import write_volume


def check_read(path: Path) -> None:
    """Each reader refuses a file in words, or what it reads survives a round trip."""
    or_words(lambda: read_labels(path))
    grid = or_words(lambda: read_grid(path))
    volume = or_words(lambda: read_volume(path))
    if volume is None:
        return
    assert grid is not None
    assert grid.same_grid(volume, atol=0)
    out = path.with_name("out.nii.gz")
    again = read_volume(write_volume(out, volume, overwrite=True))
    assert_array_equal(again.data, volume.data)
    assert again.same_grid(volume)
