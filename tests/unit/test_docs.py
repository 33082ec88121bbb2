"""The pages say what is true: commands parse, files, modules and headings exist."""

import ast
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from napari_addm import registry
from napari_addm.cli.app import COMMANDS, app

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        ROOT / "napari_addm" / "io" / "sample_data" / "README.md",
    ]
)
SCRIPTS = [
    path for folder in ("benchmarks", "docs", "tools") for path in ROOT.glob(f"{folder}/*.py")
]
GROUPS = {
    f"napari_addm.{kind.kind}s"
    for kind in vars(registry).values()
    if isinstance(kind, registry.Registry)
}

# Addresses of files in the repository.
OURS = (
    r"https://(github\.com/napari-addm/napari-addm/(blob|tree)"
    r"|raw\.githubusercontent\.com/napari-addm/napari-addm)/main/"
)

every_page = pytest.mark.parametrize(
    "page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES]
)


def code_lines(text: str) -> list[str]:
    """Lines of fenced and indented code, continued lines joined."""
    joined = text.replace("\\\n", " ")
    fenced = re.findall(r"^ *```\w*\n(.*?)^ *```", joined, flags=re.DOTALL | re.MULTILINE)
    indented = re.findall(r"^ {4}\S.*", joined, flags=re.MULTILINE)
    return [line.strip() for block in [*fenced, *indented] for line in block.splitlines()]


def spans(text: str) -> list[str]:
    """Code within a line of text."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def options_of(function: object) -> set[str]:
    """All option names of a command."""
    name = next(name for name in app if app[name].default_command is function)
    arguments = app[name].assemble_argument_collection()
    return {option for argument in arguments for option in argument.names}


@cache
def known_options() -> frozenset[str]:
    """Option names of all commands and all scripts of the checkout."""
    of_scripts = {
        option
        for path in SCRIPTS
        for option in re.findall(r'"(--[a-z][\w-]*)"', path.read_text(encoding="utf-8"))
    }
    return frozenset(
        of_scripts.union({"--help", "--version", "--debug"}, *map(options_of, COMMANDS))
    )


def slugs(page: Path) -> set[str]:
    """The names by which links reach the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def names_in(module: Path) -> set[str]:
    """What a module defines or imports at its top level."""
    names = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.alias(name=name):
                names.add(name)
            case ast.Name(id=name):
                names.add(name)
    return names


def is_importable(dotted: str) -> bool:
    """Whether a dotted name is a module of the package, or something in one."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:length])
        module = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if module.is_file():
            return length == len(parts) or parts[length] in names_in(module)
    return False


@every_page
def test_commands_parse(page):
    for line in code_lines(page.read_text(encoding="utf-8")):
        command = re.match(r"(?:exec )?napari-addm (.+)", line)
        if command is None:
            continue
        tokens = [x for x in shlex.split(command[1], comments=True) if x != "--debug"]
        app.parse_args(tokens, exit_on_error=False, print_error=False)


@every_page
def test_commands_and_options_within_text_exist(page):
    known = known_options()
    for span in spans(page.read_text(encoding="utf-8")):
        if command := re.match(r"napari-addm (?:--debug )?([a-z-]+)", span):
            assert command[1] in app, span
        if span.startswith(("--", "napari-addm ")):
            unknown = set(re.findall(r"(?<!\S)--[a-z][\w.-]*", span)) - known
            assert not unknown, span


@every_page
def test_options_of_scripts_exist(page):
    for line in code_lines(page.read_text(encoding="utf-8")):
        script = re.search(r"python ((?:benchmarks|docs|tools)/\w+\.py)(.*)", line)
        if script is None:
            continue
        source = (ROOT / script[1]).read_text(encoding="utf-8")
        for option in re.findall(r"(?<!\S)--[a-z][\w-]*", script[2].split(" -- ")[0]):
            assert f'"{option}"' in source, line


@every_page
def test_files_and_modules_exist(page):
    text = page.read_text(encoding="utf-8")
    folders = "napari_addm|tests|docs|benchmarks|scripts|tools|sample_data"
    for path in re.findall(rf"(?<![\w/.-])((?:{folders})/[\w/.*-]*)", text):
        if "NAME" not in path:
            assert list(ROOT.glob(path.rstrip("."))), path
    for dotted in re.findall(r"\bnapari_addm(?:\.\w+)+", text):
        assert dotted in GROUPS or is_importable(dotted), dotted
    for module, names in re.findall(r"from (napari_addm[\w.]*) import ([\w, ]+)", text):
        for name in names.split(", "):
            assert is_importable(f"{module}.{name.strip()}"), f"{module}.{name}"


@every_page
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        ours = re.match(OURS, target)
        if re.match(r"[a-z]+:", target) and not ours:
            continue
        file, _, heading = target.partition("#")
        other = page.resolve().parent / file if file else page
        if ours:
            other = ROOT / file[ours.end() :]
        assert other.exists(), target
        assert not heading or heading in slugs(other), target


def test_the_readme_is_short_and_whole_on_the_package_index():
    """The index and the napari hub show this page alone."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 450
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        assert target.startswith("https://"), target
