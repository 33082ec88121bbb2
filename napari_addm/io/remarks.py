"""What a reader of a result has to know, and how much it weighs."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Self

DO_NOT_TRUST = "Do not trust this map."
"""What an alarm begins with where a map is shown."""


class Kind(StrEnum):
    """How much a remark weighs, from the heaviest."""

    ALARM = "alarm"  # do not trust the map
    CAUTION = "caution"  # the result may be off
    NOTE = "note"  # harmless


class Remark(str):
    """A sentence about a scan or a result, with its weight.

    Any other string counts as a caution, because false quiet is worse than false alarm.

    Attributes
    ----------
    text : str
        In plain words.
    kind : Kind
    detail : str
        The figures behind it, for a reader who asks.
    """

    kind: Kind
    detail: str

    def __new__(cls, text: str, kind: Kind = Kind.CAUTION, detail: str = "") -> Self:
        """Make a sentence; strings are made here, not in ``__init__``."""
        remark = super().__new__(cls, text)
        remark.kind, remark.detail = kind, detail
        return remark

    @property
    def in_full(self) -> str:
        """The sentence, and the figures behind it."""
        return f"{self} ({self.detail})" if self.detail else str(self)

    def as_dict(self) -> dict[str, str]:
        """Return it for JSON."""
        return {"kind": str(self.kind), "text": str(self), "detail": self.detail}

    @classmethod
    def read(cls, found: Any) -> Self:
        """Take what `as_dict` gave, or a plain sentence; else raise a ValueError."""
        if isinstance(found, str):
            return cls(found, kind_of(found), found.detail if isinstance(found, Remark) else "")
        if not isinstance(found, dict) or set(found) - {"kind", "text", "detail"}:
            raise ValueError("a remark has kind, text and detail")
        text, detail = found.get("text"), found.get("detail", "")
        if not isinstance(text, str) or not isinstance(detail, str):
            raise ValueError("text and detail of a remark are words")
        return cls(text, Kind(found.get("kind", Kind.CAUTION)), detail)


def note(text: str, detail: str = "") -> Remark:
    """Make a remark that is harmless."""
    return Remark(text, Kind.NOTE, detail)


def caution(text: str, detail: str = "") -> Remark:
    """Make a remark that the result may be off."""
    return Remark(text, Kind.CAUTION, detail)


def alarm(text: str, detail: str = "") -> Remark:
    """Make a remark that the map is not to be trusted."""
    return Remark(text, Kind.ALARM, detail)


def kind_of(text: str) -> Kind:
    """Return the weight of a sentence; a plain one is a caution."""
    return text.kind if isinstance(text, Remark) else Kind.CAUTION


def about(what: str, text: str) -> Remark:
    """Say of what a remark speaks, in front of it."""
    remark = Remark.read(text)
    return Remark(f"The {what}: {remark}", remark.kind, remark.detail)


def in_alarm(texts: Iterable[str]) -> str:
    """Say that a map is not to be trusted, and why; empty without an alarm."""
    alarms = of_kind(Kind.ALARM, texts)
    return " ".join([DO_NOT_TRUST, *alarms]) if alarms else ""


def by_weight(texts: Iterable[str]) -> tuple[Remark, ...]:
    """Return remarks without repetitions, the heaviest first, else in their order."""
    order = list(Kind)
    remarks = sorted(map(Remark.read, texts), key=lambda each: order.index(each.kind))
    return tuple(dict.fromkeys(remarks))


def of_kind(kind: Kind, texts: Iterable[str]) -> list[Remark]:
    """Return the remarks of one weight."""
    return [each for each in by_weight(texts) if each.kind is kind]
