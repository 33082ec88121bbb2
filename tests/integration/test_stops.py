"""Commands that are stopped, killed, or short of room: nothing is lost, and nothing stays behind.

``NAPARI_ADDM_STOPS=20`` stops and kills that often, at random moments.
"""

import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals"),
]

TRIES = int(os.environ.get("NAPARI_ADDM_STOPS", "0"))
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
# What can be seen of a run from outside: it has begun, it writes, it gives files their names.
MOMENTS = ["*.lock", "*.part/*.gz", "scan_anomaly.nii.gz"]


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory, write_brain: Callable[..., Any]) -> Path:
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    write_brain(path, 1)
    return path


@pytest.fixture
def command(scan: Path, tiny_checkpoint: Path, tmp_path: Path) -> list[str]:
    line = [
        "detect",
        scan,
        "-o",
        tmp_path / "out",
        "--checkpoint",
        tiny_checkpoint,
        "--montage",
        "--no-regions",
    ]
    return list(map(str, line))


def start(*arguments: object, tmp: Path | None = None, **options: Any) -> subprocess.Popen[str]:
    environment = dict(os.environ, **({} if tmp is None else {"TMPDIR": str(tmp)}))
    # The background job of a shell, as these tests may be, ignores SIGINT, and so do its children.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "napari_addm.cli", *map(str, arguments)],
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
            text=True,
            env=environment,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)


def finish(*arguments: object, **options: Any) -> tuple[int, str, str]:
    child = start(*arguments, **options)
    out, error = child.communicate(timeout=300)
    return child.returncode, out or "", error or ""


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def wait_for(child: subprocess.Popen[str], moment: str | float, out: Path) -> None:
    """Wait for a moment of `MOMENTS`, or for some seconds, or for the end."""
    end = time.monotonic() + (300 if isinstance(moment, str) else moment)
    while child.poll() is None and time.monotonic() < end:
        if isinstance(moment, str) and any(out.glob(moment)):
            return
        time.sleep(0.0005)


def moments(*seen: str) -> list[str | float]:
    drawn = random.Random(int(time.time()))
    return [*seen, *(drawn.uniform(0, 8) for _ in range(TRIES))]


@pytest.mark.parametrize(
    ("number", "moment"),
    [(SIGNALS[0], MOMENTS[0]), *product(SIGNALS, moments(MOMENTS[1]))],
)
def test_a_signal_ends_a_detection_as_ctrl_c_does(
    command: list[str], tmp_path: Path, number: int, moment: str | float
) -> None:
    out, tmp = tmp_path / "out", tmp_path / "tmp"
    tmp.mkdir()
    child = start(*command, tmp=tmp)
    wait_for(child, moment, out)
    for _ in range(3):  # impatient people press thrice
        child.send_signal(number)
        time.sleep(0.02)
    _, error = child.communicate(timeout=120)
    left = content(out)
    if child.returncode == -number and not error:  # before Python reached our first line
        assert not left
    elif child.returncode == 0:
        assert "scan_record.json" in left
    else:
        assert child.returncode == 128 + number, error
        said = "; the files are written: .*" if left else r"(; nothing was written)?\."
        assert re.fullmatch(rf"Stopped{said}\n", error), error
        assert ("scan_record.json" in left) == bool(left)
    assert not [name for name in left if Path(name).name.startswith(".")]
    assert not list(tmp.iterdir())


def test_a_limit_of_the_shell_that_torch_exceeds_is_no_bug(command: list[str]) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (500 << 20, 500 << 20))

    code, _, error = finish(*command, preexec_fn=limit)
    assert (code, error[:21]) == (1, "Error: Out of memory:")


def test_a_signal_amid_exec_has_the_exit_code_of_any_other(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = "import os, signal, time; os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)"
    (tmp_path / "torch.py").write_text(f"exec({stop!r})")
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), before])))
    assert finish(*command)[::2] == (143, "Stopped; nothing was written.\n")


@pytest.fixture(scope="module")
def finished(
    scan: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """What a run leaves that nobody disturbs."""
    out = tmp_path_factory.mktemp("finished")
    command = (
        "detect",
        scan,
        "-o",
        out,
        "--checkpoint",
        tiny_checkpoint,
        "--montage",
        "--no-regions",
    )
    code, _, error = finish(*command)
    assert code == 0, error
    return content(out)


def undated(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if not name.endswith("_record.json")}


@pytest.mark.parametrize("moment", moments(MOMENTS[1]))
def test_a_killed_detection_keeps_the_earlier_result_and_the_next_one_sweeps(
    command: list[str], tmp_path: Path, finished: dict[str, bytes], moment: str | float
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name, data in finished.items():
        (out / name).write_bytes(data)
    (out / ".notes.part").mkdir()
    (out / ".notes.part" / "scan_findings.csv").write_text("mine")
    mine = {".notes.part/scan_findings.csv": b"mine"}
    child = start(*command, "--overwrite", "--threshold", "0.02")
    wait_for(child, moment, out)
    child.kill()
    child.communicate()
    left = {name: data for name, data in content(out).items() if not name.startswith(".")}
    assert left.keys() == finished.keys()
    if moment == MOMENTS[1]:
        assert left == finished
        assert len(list(out.glob(".*"))) == 3
    code, _, error = finish(*command, "--overwrite")
    assert code == 0, error
    assert undated(content(out)) == undated(finished) | mine


def test_the_case_beside_is_swept_too_unless_it_is_at_work(
    command: list[str], tmp_path: Path, scan: Path
) -> None:
    out = tmp_path / "out"
    other = tmp_path / "other.nii.gz"
    other.write_bytes(scan.read_bytes())
    command[1] = str(other)
    at_work = start(*command, "--draws", "200")
    wait_for(at_work, "*.lock", out)
    command[1] = str(scan)
    killed = start(*command)
    wait_for(killed, MOMENTS[1], out)
    killed.kill()
    killed.communicate()
    third = tmp_path / "third.nii.gz"
    third.write_bytes(scan.read_bytes())
    command[1] = str(third)
    assert finish(*command)[0] == 0
    assert [path.name for path in out.glob(".*")] == [".other.lock"]
    at_work.terminate()
    assert at_work.communicate(timeout=60)[1] == "Stopped; nothing was written.\n"
    assert at_work.returncode == 143
    assert not list(out.glob(".*"))


def test_a_reader_that_has_gone_is_no_fault(command: list[str], tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert finish(*command, "--json", stdout=writing)[::2] == (0, "")
    finally:
        os.close(writing)
    assert (tmp_path / "out" / "scan_record.json").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_output_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        code, _, error = finish("info", stdout=full)
        assert (code, error.count("\n")) == (1, 1)
        assert "could not be printed (No space left on device)" in error
        assert finish("info", stdout=full, stderr=full)[0] == 1


def test_odd_letters_pass_through_any_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for encoding in ("latin-1", "ascii", "cp1252", "utf-8"):
        monkeypatch.setenv("PYTHONIOENCODING", encoding)
        name = "Ślązak\u202e脳 M\udcfcller a\x1b[31m\nb.nii.gz"
        code, _, error = finish("detect", tmp_path / name, "-o", tmp_path / "out")
        assert (code, error.count("\n")) == (1, 1), error
        assert error.strip("\n").isprintable()


def test_the_help_ends_in_one_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1")
    assert finish("detect", "--help")[0] == 0


def test_closed_outputs_and_a_working_folder_that_is_gone(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    run = f'"{sys.executable}" -m napari_addm.cli info'
    for line, code in ((f"{run} >&-", 0), (f"{run} 2>&-", 0), (f"{run} >&- 2>&- <&-", 0)):
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (code, "")
    line = f'rmdir "{gone}"; {run}'
    done = subprocess.run(["sh", "-c", line], cwd=gone, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == ("Error: the working folder is gone: change to a folder that exists.\n")


@pytest.mark.parametrize("limit", [0, 4096, 20_000])
def test_a_disk_that_takes_no_more_is_a_sentence(
    command: list[str], tmp_path: Path, limit: int
) -> None:
    """A limit of the size of files acts as a full disk does."""

    def small() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    code, out, error = finish(*command, preexec_fn=small)
    assert (code, out) == (1, "")
    assert re.fullmatch(r"Error: [^\n]+\n", error), error
    assert "bug" not in error
    assert not content(tmp_path / "out")


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A folder that not even root may write to."""
    folder = tmp_path / "locked"
    folder.mkdir()
    done = subprocess.run(["chattr", "+i", str(folder)], check=False, capture_output=True)
    if done.returncode:
        if os.geteuid() == 0:
            pytest.skip("root may write anywhere here")
        folder.chmod(0o500)
    yield folder
    subprocess.run(["chattr", "-i", str(folder)], check=False, capture_output=True)
    folder.chmod(0o700)


def test_a_locked_folder_is_a_sentence(command: list[str], locked: Path) -> None:
    command[3] = str(locked)
    code, _, error = finish(*command)
    assert code == 1
    assert "cannot be written to" in error
    assert not list(locked.iterdir())
