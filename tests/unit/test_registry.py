"""Parts by name: files of a folder, and entry points of other packages."""

import sys

import pytest

from napari_addm.errors import AddmError
from napari_addm.registry import METRICS, NOISES, SAMPLERS, SCORES, Registry


def test_names_are_files_and_their_parts_come_from_them():
    from napari_addm.io import demo

    parts = Registry("io", "__doc__", spelling={"demo": "demo+"})
    assert {"dicom", "demo+"} < set(parts)
    assert "demo" not in parts
    assert parts["demo+"] == demo.__doc__
    assert len(parts) == len(list(parts))
    assert parts.get("no such part") is None
    assert ["unhashable"] not in parts


def test_private_files_are_no_parts_and_files_beside_packages_neither():
    assert not [name for name in Registry("", "x") if name.startswith("_")]
    assert "errors" not in Registry("", "x", packages=True)
    assert "io" in Registry("", "x", packages=True)


def test_an_unknown_name_lists_what_is_installed():
    parts = Registry("checkpoint", "SCORE")
    with pytest.raises(AddmError) as raised:
        parts["magic"]
    assert str(raised.value).startswith("There is no score 'magic'; this installation has ")
    assert all(name in str(raised.value) for name in parts)


def test_listing_names_imports_no_part():
    assert "wheel" in list(Registry("widgets", "__doc__"))
    assert "napari_addm.widgets.wheel" not in sys.modules


def test_a_third_party_adds_a_part_by_an_entry_point(install):
    install("vessels", "SCORE = 'their score'", scores=("vessel", "SCORE"))
    parts = Registry("checkpoint", "SCORE")
    assert "vessel" in parts
    assert "vessels" not in sys.modules
    assert parts["vessel"] == "their score"
    assert list(parts)[-1] == "vessel"


def test_nobody_replaces_a_built_in_part(install):
    install("rivals", "SCORE = 'rival'", scores=("specification", "SCORE"))
    parts = Registry("checkpoint", "__doc__")
    parts.kind = "score"
    with pytest.warns(UserWarning, match="'specification' of the package rivals is ignored"):
        names = list(parts)
    assert names.count("specification") == 1
    assert parts["specification"] != "rival"


def test_a_part_that_cannot_be_imported_names_its_package(install):
    install("broken", "import nothing_of_this_name", scores=("vessel", "SCORE"))
    parts = Registry("checkpoint", "SCORE")
    with pytest.raises(
        AddmError, match=r"'vessel' of the package broken cannot be loaded .*nothing_of"
    ):
        parts["vessel"]
    with pytest.warns(UserWarning, match="'vessel' of the package broken cannot be loaded"):
        usable = Registry("detection.scores", "SCORE").usable()
    assert "vessel" not in usable
    assert usable["squared"] is SCORES["squared"]


@pytest.mark.parametrize("parts", [METRICS, NOISES, SAMPLERS, SCORES], ids=lambda each: each.kind)
def test_every_part_is_described(parts):
    for name, part in parts.items():
        assert part.title
        assert getattr(part, "meaning" if parts.kind == "metric" else "description")
        assert getattr(part, "key", name) == name
