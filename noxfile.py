#!/usr/bin/env -S uv run --script
# /// script
# dependencies = ["nox>=2025.2.9"]
# ///
"""Sessions for contributors: `nox -l` lists them, `nox -s unit` runs one."""

import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True

CONSTRAINTS = ("--constraint", "constraints.txt")
# highdicom needs pyjpegls, which has no wheels for Python 3.14.
DICOM = ",dicom" if sys.version_info < (3, 14) else ""
EVERYTHING = f".[all,benchmark,cluster,openvino{DICOM}]"
PACKAGE = sorted(map(str, Path("napari_addm").rglob("*.py")))


def _install(session: nox.Session, *packages: str, group: str = "test") -> None:
    requirements = nox.project.dependency_groups(nox.project.load_toml(), group)
    session.install(*CONSTRAINTS, *packages, *requirements)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, spelling, docstrings and the direction of imports."""
    session.install("ruff>=0.6", "codespell>=2.4", "numpydoc>=1.8", "import-linter>=2.1")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("codespell")
    session.run("numpydoc", "lint", *PACKAGE, silent=True)
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Run mypy."""
    _install(session, "-e", EVERYTHING, group="dev")
    session.run("mypy")
    scripts = [
        path for folder in ("benchmarks", "docs", "examples") for path in Path(folder).rglob("*.py")
    ]
    session.run("mypy", *map(str, scripts))


@nox.session
def unit(session: nox.Session) -> None:
    """Run the unit tier; arguments go to pytest, such as --cov."""
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
    out = Path(session.create_tmp()).resolve()
    for old in out.glob("napari_addm-*"):
        old.unlink()
    session.run("python", "-m", "build", "--outdir", str(out))  # the wheel is made from the sdist
    wheel, sdist = next(out.glob("*.whl")), next(out.glob("*.tar.gz"))
    session.run("twine", "check", "--strict", str(wheel), str(sdist))
    session.install(*CONSTRAINTS, f"napari-addm[all] @ {wheel.as_uri()}")
    detect = Path("examples/detect.py").resolve()
    session.chdir(out)  # the checkout is not to be found
    session.run("npe2", "validate", "napari-addm")
    session.run("napari-addm", "demo", "--headless", "--output", "demo")
    session.run("python", str(detect))


if __name__ == "__main__":
    nox.main()
