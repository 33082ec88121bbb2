"""Remarks: sentences that know how much they weigh."""

import json
import pickle

import pytest

from napari_addm.io.remarks import Kind, Remark, about, alarm, by_weight, caution, kind_of, note


def test_the_heaviest_come_first_and_each_once() -> None:
    said = [note("Resampled."), "Plain words.", alarm("No T1."), caution("Resampled."), "No T1."]
    found = by_weight(said)
    assert [(each.kind, str(each)) for each in found] == [
        (Kind.ALARM, "No T1."),
        (Kind.CAUTION, "Plain words."),
        (Kind.CAUTION, "Resampled."),
    ]


def test_plain_words_are_a_caution() -> None:
    assert kind_of("Nobody weighed this.") is Kind.CAUTION


def test_the_weight_travels_with_the_sentence() -> None:
    said = note("The file is 4D.", "3 frames")
    of_mask = about("brain mask", said)
    assert of_mask == "The brain mask: The file is 4D."
    for copy in (pickle.loads(pickle.dumps(of_mask)), Remark.read(of_mask)):
        assert (copy.kind, copy.detail) == (Kind.NOTE, "3 frames")
    assert said.in_full == "The file is 4D. (3 frames)"
    assert said in ("The file is 4D.",)  # it is a string to all that compare strings


def test_json_gives_it_again() -> None:
    said = alarm("No T1.", "a contrast of -0.3")
    again = Remark.read(json.loads(json.dumps(said.as_dict())))
    assert (again, again.kind, again.detail) == (said, said.kind, said.detail)


@pytest.mark.parametrize(
    "found", [3, None, {}, {"text": 1}, {"text": "a", "kind": "shout"}, {"text": "a", "b": 1}]
)
def test_what_is_no_remark(found: object) -> None:
    with pytest.raises(ValueError, match=r"remark|Kind"):
        Remark.read(found)
