"""Every system of the comparison: trained alike, measured alike, reported side by side.

All results are kept in the benchmark's folder. What still belongs to the same scans, weights and
settings is not computed again.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from napari_addm.benchmark.cache import Maps, cached_maps, cached_value
from napari_addm.benchmark.measurements import (
    DEFAULT_SCORE,
    EROSION_MM,
    MINIMUM_ML,
    SCORES_KEY,
    SMOOTHING_MM,
    Row,
    anoddpm_row,
    anoddpm_settings,
    auprc_row,
    choose_thresholds,
    curve_settings,
    intensity_maps,
    is_validation,
    model_maps,
    one_at_a_time,
    strict_row,
    strict_settings,
)
from napari_addm.benchmark.pictures import write_pictures
from napari_addm.benchmark.report import write_csv, write_report
from napari_addm.benchmark.summary import average_curve, best_score, compare, summarize
from napari_addm.benchmark.systems import (
    BASELINE,
    REFERENCE,
    BenchmarkSettings,
    System,
    known_systems,
)
from napari_addm.checkpoint.file import Checkpoint, load_checkpoint, read_specification
from napari_addm.errors import AddmError
from napari_addm.io.hashing import sha256
from napari_addm.registry import METHODS
from napari_addm.training.labelled_scans import LabelledScan, find_cases, read_split
from napari_addm.training.settings import RunSettings, preset_settings

T = TypeVar("T")

HEALTHY = "healthy/calibration"


@dataclass
class Benchmark:
    """One benchmark in one folder.

    Attributes
    ----------
    data : Path
        See `find_cases`.
    output : Path
    settings : BenchmarkSettings
    report : callable
        Called with a line of text whenever something begins.

    Raises
    ------
    AddmError
        If a system is unknown, or two checkpoints have the same name.
    """

    data: Path
    output: Path
    settings: BenchmarkSettings
    report: Callable[[str], None] = lambda line: None

    def __post_init__(self) -> None:
        known = known_systems()
        unknown = [label for label in self.settings.systems if label not in known]
        if unknown:
            raise AddmError(
                f"There is no system {', '.join(unknown)}; choose from {', '.join(known)}."
            )
        self.split_file = self.data / "split.json"
        self.split = read_split(self.split_file)
        self.cases = find_cases(self.data, self.split)
        self.systems = [s for label, s in known.items() if label in self.settings.systems]
        for path in self.settings.checkpoints:
            card = read_specification(path)
            label = f"checkpoint-{path.stem}"
            self.systems.append(System(label, card.name, card.method, checkpoint=path))
        if len({system.title for system in self.systems}) < len(self.systems):
            raise AddmError("Two checkpoints have the same name in their card; rename one.")

    def seeds(self, system: System) -> tuple[int, ...]:
        """Return the seeds of a system: one for each of its trainings."""
        return self.settings.seeds if system.is_trained_here else self.settings.seeds[:1]

    # --- training ---------------------------------------------------------------------------

    def model_path(self, system: System, seed: int) -> Path:
        """Return the path of a system's checkpoint."""
        models = self.output / "models"
        return system.checkpoint or models / f"{system.label}-seed{seed}.safetensors"

    def train_missing(self, **lightning_options: Any) -> None:
        """Train every system whose checkpoint is missing or has had less than its budget.

        Raises
        ------
        AddmError
            If there is no budget and something to train.
        """
        for system in self.systems:
            if system.is_made_here:
                for seed in self.seeds(system):
                    if not self._is_trained(system, seed):
                        self._train(system, seed, lightning_options)

    def _is_trained(self, system: System, seed: int) -> bool:
        path = self.model_path(system, seed)
        if not path.is_file() or not system.is_trained_here:
            return path.is_file()
        record = read_specification(path).training
        minutes, iterations = self.settings.minutes, self.settings.iterations
        return (minutes is None or record["seconds"] >= 60 * minutes * 0.99) and (
            iterations is None or record["iterations"] >= iterations
        )

    def _train(self, system: System, seed: int, lightning_options: dict[str, Any]) -> None:
        from napari_addm.training.train import train

        path = self.model_path(system, seed)
        no_budget = self.settings.minutes is None and self.settings.iterations is None
        if no_budget and system.is_trained_here:
            raise AddmError(
                f"{path}: has to be trained, so a budget is needed; give --minutes or --iterations."
            )
        assert system.method is not None
        self.report(f"Training {system.title}, seed {seed}")
        settings = preset_settings(system.method, self.settings.preset, system.timesteps)
        train(
            self.data / "healthy",
            path,
            settings.replace(seed=seed, epochs=1_000_000),
            RunSettings(
                split=self.split_file,
                name=f"{system.title}, benchmark"
                + (f", seed {seed}" if system.is_trained_here else ""),
                iterations=self.settings.iterations,
                minutes=self.settings.minutes,
                cache=self.output / "models" / "slices",
            ),
            **lightning_options,
        )

    def _checkpoint(self, system: System, seed: int) -> Checkpoint | None:
        if system.method is None:
            return None
        path = self.model_path(system, seed)
        if not path.is_file():
            raise AddmError(f"{path}: is not trained yet; give --minutes or --iterations.")
        return load_checkpoint(path)

    # --- measurements -----------------------------------------------------------------------

    def maps(
        self, system: System, seed: int, checkpoint: Checkpoint | None, case: LabelledScan
    ) -> Maps:
        """Compute a case's anomaly maps, or read them if they are there."""
        path = self.output / "maps" / f"{system.label}-seed{seed}" / case.group / f"{case.name}.npz"
        if checkpoint is None:
            intensity_key = ("intensity 3", SMOOTHING_MM, EROSION_MM, case.digest)
            return cached_maps(path, intensity_key, partial(intensity_maps, case))
        settings = strict_settings(self.settings, seed, checkpoint.specification)
        key = (checkpoint.sha256, settings.model_dump(), SCORES_KEY, case.digest)
        line = f"{system.title}: {case.group}, {case.name}"
        compute = partial(self._announced, line, model_maps, checkpoint, settings, case)
        return cached_maps(path, key, compute)

    def _announced(self, line: str, function: Callable[..., T], *arguments: Any) -> T:
        """Report a line, and call a function."""
        self.report(line)
        return function(*arguments)

    def strict(self, system: System, seed: int) -> list[Row]:
        """Measure every case under every score, at the threshold that validation chose."""
        checkpoint = self._checkpoint(system, seed)
        maps = {c: self.maps(system, seed, checkpoint, c) for c in one_at_a_time(self.cases)}
        digests = {f"{c.group}/{c.name}": (c.digest, m.sha256) for c, m in maps.items()}

        def compute() -> list[Row]:
            thresholds = choose_thresholds(maps)
            rows = []
            for case in one_at_a_time(maps):
                self.report(f"{system.title}: measuring {case.name}")
                for score, threshold in thresholds.items():
                    row = {"group": case.group, "case": case.name, "score": score}
                    rows.append(row | strict_row(case, maps[case].scores[score], threshold))
            return rows

        path = self.output / "strict" / f"{system.label}-seed{seed}.json"
        rows = cached_value(path, ("strict 2", digests, MINIMUM_ML), compute)
        return [{"method": system.title, "seed": seed, **row} for row in rows]

    def anoddpm(self, system: System, seed: int) -> list[Row]:
        """Measure four slices through every lesion, at a squared error above 0.5."""
        checkpoint = self._checkpoint(system, seed)
        if checkpoint is None:
            return []
        settings = anoddpm_settings(self.settings, seed, checkpoint.specification)
        folder = self.output / "anoddpm" / f"{system.label}-seed{seed}"
        rows = []
        for case in one_at_a_time(c for c in self.cases if c.truth is not None):
            line = f"{system.title}: anoddpm protocol, {case.name}"
            key = ("anoddpm 2", checkpoint.sha256, settings.model_dump(), case.digest)
            compute = partial(self._announced, line, anoddpm_row, checkpoint, settings, case)
            found = cached_value(folder / f"{case.name}.json", key, compute)
            row = {"method": system.title, "seed": seed, "group": case.group, "case": case.name}
            rows.append(row | {"score": "squared"} | found)
        return rows

    def curves(self, system: System, seed: int, score: str) -> list[Row]:
        """Measure the AUPRC of the validation cases against steps and the noise level."""
        checkpoint = self._checkpoint(system, seed)
        if checkpoint is None:
            return []
        folder = self.output / "curves" / f"{system.label}-seed{seed}"
        rows = []
        for kind, x, settings in curve_settings(self.settings, seed, checkpoint.specification):
            point = f"level{settings.level}-steps{settings.steps}"
            for case in one_at_a_time(c for c in self.cases if is_validation(c)):
                line = f"{system.title}: curve, {case.name}, {settings.steps} steps"
                key = ("curve 1", checkpoint.sha256, settings.model_dump(), SCORES_KEY, case.digest)
                compute = partial(self._announced, line, auprc_row, checkpoint, settings, case)
                values = cached_value(folder / f"{case.name}-{point}.json", key, compute)
                row = {"kind": kind, "x": x, "case": case.name, "seed": seed}
                rows.append(row | {"auprc": values[score]})
        return rows

    # --- all of it --------------------------------------------------------------------------

    def results(self, command: str = "") -> dict[str, Any]:
        """Evaluate every system, and bring everything into the report's form.

        Returns
        -------
        dict
            Plain JSON, as `napari_addm.benchmark.report.write_report` takes it.
        """
        started = time.time()
        protocols = self.settings.protocols
        cases: list[Row] = []
        healthy: list[Row] = []
        curves: list[Row] = []
        chosen: dict[str, str] = {}
        for system in self.systems:
            seeds = self.seeds(system)
            if "strict" in protocols:
                rows = [row for seed in seeds for row in self.strict(system, seed)]
                chosen[system.title] = best_score(rows)
                healthy += [row for row in rows if row["group"] == HEALTHY]
                cases += [{"protocol": "strict", **r} for r in rows if r["group"] != HEALTHY]
            if "anoddpm" in protocols:
                rows = [row for seed in seeds for row in self.anoddpm(system, seed)]
                cases += [{"protocol": "anoddpm", **row} for row in rows]
            if system.label in self.settings.curve_systems:
                score = chosen.get(system.title, DEFAULT_SCORE)
                points = [p for seed in seeds for p in self.curves(system, seed, score)]
                curves += average_curve(system.title, points)
        return {
            "title": "Unsupervised anomaly detection in T1 brain MRI",
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
            "command": command,
            "package_version": version("napari-addm"),
            "versions": {p: version(p) for p in ("torch", "monai", "numpy", "scipy", "nibabel")},
            "hardware": _hardware(),
            "seeds": list(self.settings.seeds),
            "budget": {"minutes": self.settings.minutes, "iterations": self.settings.iterations},
            "settings": {k: str(v) for k, v in asdict(self.settings).items()},
            "data": _describe_data(self.data.name, self.split, self.cases),
            "methods": [
                _describe_model(system, self._checkpoint(system, seed), self.settings, seed, chosen)
                for system in self.systems
                for seed in self.seeds(system)
            ],
            "chosen_scores": chosen,
            "summary": list(summarize(cases, healthy, chosen)),
            "baseline": known_systems()[BASELINE].title,
            "comparisons": compare(
                cases, chosen, *(known_systems()[label].title for label in (BASELINE, REFERENCE))
            ),
            "cases": cases,
            "healthy": healthy,
            "curves": curves,
            "pictures": list(self._pictures(chosen)) if "strict" in protocols else [],
        }

    def _pictures(self, chosen: Mapping[str, str]) -> Iterator[Row]:
        seed = self.settings.seeds[0]
        checkpoints = [(system, self._checkpoint(system, seed)) for system in self.systems]
        for case in one_at_a_time(c for c in self.cases if c.truth is not None):
            systems = (
                (system.title, chosen[system.title], self.maps(system, seed, checkpoint, case))
                for system, checkpoint in checkpoints
            )
            yield write_pictures(case, systems, self.output)


def write_results(results: Mapping[str, Any], output: Path) -> list[Path]:
    """Write ``report.html``, ``results.csv`` and ``results.json`` into a folder.

    Returns
    -------
    list of Path
        What was written.
    """
    output.mkdir(parents=True, exist_ok=True)
    whole = output / "results.json"
    whole.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
    table = write_csv(results, output / "results.csv")
    return [write_report(results, output / "report.html", output), table, whole]


def _hardware() -> str:
    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{platform.machine()}, {torch.get_num_threads()} thread(s){gpu}"


def _describe_data(
    name: str, split: Mapping[str, Any], cases: Sequence[LabelledScan]
) -> dict[str, Any]:
    parts = split.get("healthy", {})
    groups: dict[str, int] = {f"healthy/{part}": len(names) for part, names in parts.items()}
    for case in cases:
        if case.truth is not None:
            groups[case.group] = groups.get(case.group, 0) + 1
    digest = sha256(*(case.digest.encode() for case in cases))
    return {"name": name, "sha256": digest, "groups": groups}


def _describe_model(
    system: System,
    checkpoint: Checkpoint | None,
    settings: BenchmarkSettings,
    seed: int,
    chosen: Mapping[str, str],
) -> Row:
    row = {"name": system.label, "label": system.title, "title": system.title, "seed": seed}
    score = chosen.get(system.title)
    if checkpoint is None:
        return row | {"source": "the scan's own intensities", "score": score}
    specification = checkpoint.specification
    method, detection = METHODS[specification.method], specification.detection
    sampling = "one pass"
    if specification.diffusion is not None:
        steps = settings.steps or detection.steps
        sampling = (
            f"level {detection.level} of {specification.diffusion.timesteps}, "
            f"{steps} {detection.sampler.upper()} step(s)"
        )
    if method.random:
        draws = strict_settings(settings, seed, specification).draws or detection.draws
        sampling += f", {draws} draw(s)"
    return row | {
        "source": method.source,
        "parameters": sum(tensor.numel() for tensor in checkpoint.network_weights.values()),
        "iterations": specification.training.get("iterations"),
        "seconds": specification.training.get("seconds"),
        "checkpoint": checkpoint.path.name,
        "sha256": checkpoint.sha256,
        "score": score,
        "sampling": sampling,
        "training_data": specification.training.get("data_sha256"),
    }
