"""The words in which errors reach a person."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from napari_addm.checkpoint.specification import ScoreKind
from napari_addm.errors import describe_problem


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (ScoreKind, "magic", "there is no score 'magic'; this installation has "),
        (int, "a", "input should be a valid integer"),
    ],
)
def test_a_problem_ends_a_sentence(kind: Any, value: str, words: str) -> None:
    with pytest.raises(ValidationError) as raised:
        TypeAdapter(kind).validate_python(value)
    (problem,) = raised.value.errors()
    assert describe_problem(problem).startswith(words)
    assert not describe_problem(problem).endswith(".")
