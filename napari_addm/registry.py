"""Parts that are found by name: scores, noises, samplers, metrics, methods and file formats.

A built-in part is a file in the folder of its kind. A third party adds a part by an entry point of
the group of its kind, such as ``napari_addm.scores``. Listing the names imports no part.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from napari_addm.errors import AddmError

T = TypeVar("T")


class UnknownPartError(AddmError, KeyError, ValueError):
    """No installed part has this name: a KeyError for mappings, a ValueError for pydantic."""

    __str__ = Exception.__str__


class Registry(Mapping[str, T]):
    """The installed parts of one kind by name; a part is imported when it is asked for.

    Built-in names come first, each group in alphabetical order. A third-party part whose name is
    taken is ignored with a warning, so that nobody replaces a built-in part.

    Parameters
    ----------
    folder : str
        Where the files are, below the package: ``"detection.scores"``. Files whose name begins
        with an underscore are no parts.
    attribute : str
        What a file calls its part, such as ``"SCORE"``.
    spelling : dict of str to str, optional
        Names that no file can have, by file.
    former : dict of str to str, optional
        Names in older files, and what they are called today.
    packages : bool
        Whether a part is a sub-package, so that plain files beside it are no parts.
    """

    def __init__(
        self,
        folder: str,
        attribute: str,
        *,
        spelling: Mapping[str, str] | None = None,
        former: Mapping[str, str] | None = None,
        packages: bool = False,
    ) -> None:
        self.folder = folder
        self.attribute = attribute
        self.kind = attribute.lower()
        self._spelling = spelling or {}
        self._former = former or {}
        self._packages = packages

    @cached_property
    def _built_in(self) -> dict[str, str]:
        """The module of every built-in part."""
        folder = Path(__file__).parent.joinpath(*self.folder.split("."))
        return {
            self._spelling.get(
                module.name, module.name
            ): f"{__package__}.{self.folder}.{module.name}"
            for module in iter_modules([str(folder)])
            if not module.name.startswith("_") and (module.ispkg or not self._packages)
        }

    @property
    def _third_party(self) -> dict[str, EntryPoint]:
        return _find_third_party(self.kind, frozenset(self._built_in), tuple(sys.path))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self._built_in or name in self._third_party)

    def __iter__(self) -> Iterator[str]:
        yield from self._built_in
        yield from self._third_party

    def __len__(self) -> int:
        return len(self._built_in) + len(self._third_party)

    def check(self, name: str) -> str:
        """Return a name that is installed, for a former name the one of today.

        Raises
        ------
        UnknownPartError
            If there is no such part; the message lists those that are installed.
        """
        name = self._former.get(name, name)
        if name not in self:
            raise UnknownPartError(
                f"There is no {self.kind} {name!r}; this installation has {', '.join(self)}."
            )
        return name

    def __getitem__(self, name: str) -> T:
        """Import a part.

        Raises
        ------
        UnknownPartError
            If there is no such part.
        AddmError
            If the part cannot be imported, or its file lacks it.
        """
        name = self.check(name)
        part: T
        if name in self._built_in:
            module = import_module(self._built_in[name])
            if not hasattr(module, self.attribute):
                raise AddmError(f"{module.__file__} has no {self.attribute}; define it there.")
            part = getattr(module, self.attribute)
            return part
        entry = self._third_party[name]
        try:
            part = entry.load()
        except Exception as error:
            raise AddmError(
                f"The {self.kind} {name!r} of the package {_package(entry)} cannot be loaded "
                f"({type(error).__name__}: {error}). Update or uninstall that package."
            ) from error
        return part

    def usable(self) -> dict[str, T]:
        """Import all parts, and leave out with a warning those that cannot be imported."""
        parts: dict[str, T] = {}
        for name in self:
            try:
                parts[name] = self[name]
            except AddmError as error:
                warnings.warn(str(error), stacklevel=2)
        return parts


@lru_cache(maxsize=1)
def _all_entry_points(path: tuple[str, ...]) -> Any:
    """The entry points of all packages; reading them takes some milliseconds."""
    return entry_points()


@lru_cache(maxsize=64)
def _find_third_party(
    kind: str, built_in: frozenset[str], path: tuple[str, ...]
) -> dict[str, EntryPoint]:
    """The entry points of a kind by name; ``path`` is where packages are looked for."""
    found: dict[str, EntryPoint] = {}
    entries = _all_entry_points(path).select(group=f"{__package__}.{kind}s")
    for entry in sorted(entries, key=lambda entry: (entry.name, _package(entry))):
        if entry.name in built_in or entry.name in found:
            warnings.warn(
                f"The {kind} {entry.name!r} of the package {_package(entry)} is ignored: its name "
                "is taken.",
                stacklevel=2,
            )
        else:
            found[entry.name] = entry
    return found


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else entry.module


METHODS: Registry[Any] = Registry("methods", "METHOD", packages=True)
SCORES: Registry[Any] = Registry("detection.scores", "SCORE")
NOISES: Registry[Any] = Registry("diffusion.noises", "NOISE", former={"coarse": "pyramid"})
SAMPLERS: Registry[Any] = Registry(
    "diffusion.samplers", "SAMPLER", spelling={"dpm_solver": "dpm++"}
)
METRICS: Registry[Any] = Registry("metrics.measures", "METRIC")
FORMATS: Registry[Any] = Registry("io.formats", "FORMAT")

if TYPE_CHECKING:
    NoiseName: TypeAlias = str
    SamplerName: TypeAlias = str
    ScoreName: TypeAlias = str
else:  # the installed names, for the command line, the panel and pydantic
    NoiseName = Literal[tuple(NOISES)]
    SamplerName = Literal[tuple(SAMPLERS)]
    ScoreName = Literal[tuple(SCORES)]
