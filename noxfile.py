#!/usr/bin/env -S uv run --script
# /// script
# dependencies = ["nox>=2025.2.9"]
# ///
"""Sessions for contributors: `nox -l` lists them, `nox -s unit` runs one."""

from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True

CONSTRAINTS = ("--constraint", "constraints.txt")
EVERYTHING = ".[all,benchmark,dicom,cluster,openvino]"


def _install(session: nox.Session, *packages: str, group: str = "test") -> None:
    requirements = nox.project.dependency_groups(nox.project.load_toml(), group)
    session.install(*CONSTRAINTS, *packages, *requirements)


@nox.session
def lint(session: nox.Session) -> None:
    """Run ruff and check the direction of imports."""
    session.install("ruff>=0.6", "import-linter>=2.1")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Run mypy."""
    _install(session, "-e", EVERYTHING, group="dev")
    session.run("mypy")


@nox.session
def unit(session: nox.Session) -> None:
    """Run the unit tier; arguments go to pytest."""
    _install(session, "-e", EVERYTHING)
    session.run("pytest", "-n", "auto", *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session(default=False)
def integration(session: nox.Session) -> None:
    """Run whole programs, subprocesses and trainings."""
    _install(session, "-e", EVERYTHING)
    session.run("pytest", "-n", "auto", "tests/integration", *session.posargs)


@nox.session(default=False)
def gui(session: nox.Session) -> None:
    """Run the panels in a real viewer; needs a display, such as xvfb-run."""
    _install(session, "-e", EVERYTHING)
    session.run("pytest", "-n", "auto", "--dist", "loadfile", "tests/gui", *session.posargs)


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Build the site in site/; a broken link is an error."""
    session.install(*CONSTRAINTS, "-e", ".[docs]")
    session.run("mkdocs", "build", "--strict", *session.posargs)


@nox.session(default=False)
def build(session: nox.Session) -> None:
    """Build wheel and sdist, check them, and smoke-test the installed wheel."""
    session.install("build", "twine")
    out = session.create_tmp()
    session.run("python", "-m", "build", "--outdir", out)
    session.run("twine", "check", "--strict", *map(str, Path(out).glob("napari_addm-*")))
    wheel = next(Path(out).resolve().glob("*.whl"))
    session.install(*CONSTRAINTS, f"napari-addm[all] @ {wheel.as_uri()}")
    session.run("napari-addm", "demo", "--headless", "--output", f"{out}/demo")


if __name__ == "__main__":
    nox.main()
