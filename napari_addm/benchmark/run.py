"""Every system of the comparison: trained alike, measured alike, reported side by side.

All results are kept as they come: what is there already and still belongs to
the same scans, weights and settings is not computed again.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_addm.checkpoint.file import Checkpoint, load_checkpoint, read_specification
from napari_addm.checkpoint.specification import (
    ScoreKind,
    ScoreSpecification,
)
from napari_addm.detection.pipeline import run
from napari_addm.detection.settings import DetectionSettings
from napari_addm.errors import AddmError
from napari_addm.io.files import open_atomic, write_atomic
from napari_addm.io.hashing import json_sha256, sha256
from napari_addm.metrics.intensity_baselines import intensity_baselines
from napari_addm.metrics.metric import rated_metrics
from napari_addm.metrics.protocols import (
    BUILT_IN,
    anoddpm_case,
    anoddpm_slices,
    healthy_case,
    strict_case,
)
from napari_addm.metrics.statistics import mean_interval, paired_difference
from napari_addm.metrics.thresholds import threshold_by_dice
from napari_addm.registry import METHODS
from napari_addm.training.labelled_scans import LabelledScan, find_cases, read_split
from napari_addm.training.settings import RunSettings, preset_settings

Protocol = Literal["strict", "anoddpm"]

SMOOTHING_MM = 6.0
EROSION_MM = 4.0
MINIMUM_ML = 0.5
SCORES: dict[ScoreKind, ScoreSpecification] = {
    "absolute": ScoreSpecification(
        kind="absolute", smoothing_mm=SMOOTHING_MM, erosion_mm=EROSION_MM
    ),
    "ssim": ScoreSpecification(kind="ssim", smoothing_mm=SMOOTHING_MM, erosion_mm=EROSION_MM),
    # as the small presets score: most lesions lie on one side
    "structure": ScoreSpecification(
        kind="structure", smoothing_mm=SMOOTHING_MM, erosion_mm=EROSION_MM, symmetry=True
    ),
}
"""Scores that every system is measured with; the best one on validation is its row."""
_SCORES_KEY = {kind: score.model_dump() for kind, score in SCORES.items()}

METRICS = {
    "strict": (
        "dice",
        "auroc",
        "iou",
        "precision",
        "recall",
        "auprc",
        "prevalence",
        "aupro",
        "oracle_best_dice",
        "lesion_recall",
        "auroc_field",
    ),
    "anoddpm": ("dice", "auroc_full", "iou", "precision", "recall"),
}

COLUMNS = {"oracle_best_dice": "best_dice", "auroc_field": "auroc_full"}
"""Where a protocol's measure stands in the tables, if not under its own name."""


@dataclass(frozen=True)
class System:
    """One row of the table.

    Attributes
    ----------
    label : str
        In file names and on the command line.
    title : str
        In tables.
    method : str or None
        None for the scan's intensities alone, which need no training.
    length : int
        T, for methods with noise levels.
    checkpoint : Path or None
        A model that was trained elsewhere, with a budget of its own.
    """

    label: str
    title: str
    method: str | None
    length: int = 1000
    checkpoint: Path | None = None


def known_systems() -> dict[str, System]:
    """The rows that can be asked for: the scan's intensities, and every installed method."""
    systems = [System("intensity", "Intensity, no model", None)]
    for name, method in METHODS.items():
        several = len(method.compared_timesteps) > 1
        systems += [
            System(
                f"{name}_{timesteps}" if several else name,
                f"{method.title}, T = {timesteps}" if several else method.title,
                name,
                timesteps,
            )
            for timesteps in method.compared_timesteps
        ]
    return {system.label: system for system in systems}


REFERENCE = "addm_1000"
"""The system that the others are compared with."""


@dataclass(frozen=True)
class BenchmarkSettings:
    """What is compared, and how.

    Attributes
    ----------
    systems : tuple of str
        Keys of :func:`known_systems`.
    checkpoints : tuple of Path
        Further rows: models that are trained already.
    protocols : tuple of str
    seeds : tuple of int
        Of training and of detection: each seed is a training of its own.
    minutes, iterations : optional
        What each training may take; equal for all. Iterations make a training
        repeatable to the digit, minutes give equal computation.
    preset : str
    steps, draws : int, optional
        Sampling of the strict protocol, equal for all systems that sample (draws:
        at most so many); else the checkpoint's defaults.
    anoddpm_steps : int
        Ancestral steps of the anoddpm protocol at most; the level is a quarter of T.
    curve_systems, curve_steps, curve_levels : tuple
        Quality against sampling steps and noise level (in shares of T), on the
        validation cases; systems that have neither are left out.
    device, precision : str
    """

    systems: tuple[str, ...] = field(default_factory=lambda: tuple(known_systems()))
    checkpoints: tuple[Path, ...] = ()
    protocols: tuple[Protocol, ...] = ("strict", "anoddpm")
    seeds: tuple[int, ...] = (0,)
    minutes: float | None = None
    iterations: int | None = None
    preset: str = "small"
    steps: int | None = None
    draws: int | None = None
    anoddpm_steps: int = 250
    curve_systems: tuple[str, ...] = ()
    curve_steps: tuple[int, ...] = (1, 2, 5, 10, 25)
    curve_levels: tuple[float, ...] = (0.05, 0.1, 0.15, 0.25, 0.4)
    device: str = "auto"
    precision: str = "auto"


# --- what is kept ---------------------------------------------------------------------------


def _key(*parts: Any) -> str:
    return json_sha256(parts)


def _kept(path: Path, key: str, compute: Callable[[], Any]) -> Any:
    """A JSON value from a file, or computed and put there; another key's value is replaced."""
    if path.is_file():
        found = json.loads(path.read_text())
        if found["key"] == key:
            return found["value"]
    text = json.dumps({"key": key, "value": compute()}, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text)
    return json.loads(text)["value"]  # a fresh value is what a kept one will be


@dataclass(frozen=True)
class Maps:
    """The anomaly maps of one case by one system.

    Attributes
    ----------
    scores : dict of str to ndarray of float32, shape (voxels of the brain,)
        In the order of ``volume[brain]``.
    pictures : dict of str to ndarray of float32, shape (A, R)
        Reconstruction and maps in the slice that is shown.
    """

    scores: dict[str, NDArray[np.float32]]
    pictures: dict[str, NDArray[np.float32]]


def _kept_maps(path: Path, key: str, compute: Callable[[], Maps]) -> Maps:
    if path.is_file():
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["key"]) == key:
                return _maps_from(stored)
    maps = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Half precision halves the folder; the maps go through it even when they are fresh, so that
    # a resumed benchmark gives the same figures.
    arrays = {f"score {k}": v.astype(np.float16) for k, v in maps.scores.items()}
    arrays |= {f"picture {k}": v.astype(np.float32) for k, v in maps.pictures.items()}
    with open_atomic(path) as file:
        np.savez_compressed(file, key=np.array(key), **arrays)  # type: ignore[arg-type]
    with np.load(path, allow_pickle=False) as stored:
        return _maps_from(stored)


def _maps_from(stored: Any) -> Maps:
    def part(name: str) -> dict[str, NDArray[np.float32]]:
        return {
            key.removeprefix(f"{name} "): stored[key].astype(np.float32)
            for key in stored.files
            if key.startswith(f"{name} ")
        }

    return Maps(part("score"), part("picture"))


# --- the run --------------------------------------------------------------------------------


@dataclass
class Benchmark:
    """One benchmark in one folder.

    Parameters
    ----------
    data : Path
        See :func:`find_cases`.
    output : Path
    settings : BenchmarkSettings
    report : callable
        Called with a line of text whenever something begins.
    """

    data: Path
    output: Path
    settings: BenchmarkSettings
    report: Callable[[str], None] = lambda line: None

    def __post_init__(self) -> None:
        known = known_systems()
        unknown = [s for s in self.settings.systems if s not in known]
        if unknown:
            raise AddmError(
                f"There is no system {', '.join(unknown)}; choose from {', '.join(known)}."
            )
        self.split_file = self.data / "split.json"
        self.split = read_split(self.split_file)
        self.cases = find_cases(self.data, self.split)
        self.systems = [s for label, s in known.items() if label in self.settings.systems]
        for path in self.settings.checkpoints:
            specification = read_specification(path)
            label = f"checkpoint-{path.stem}"
            self.systems.append(
                System(label, specification.name, specification.method, checkpoint=path)
            )
        titles = [system.title for system in self.systems]
        if len(set(titles)) < len(titles):
            raise AddmError("Two checkpoints have the same name in their card; rename one.")

    def seeds(self, system: System) -> tuple[int, ...]:
        """One for each training of a system."""
        trained_here = system.method is not None and system.checkpoint is None
        return self.settings.seeds if trained_here else self.settings.seeds[:1]

    # training

    def model_path(self, system: System, seed: int) -> Path:
        """Where a system's checkpoint lies."""
        return system.checkpoint or (
            self.output / "models" / f"{system.label}-seed{seed}.safetensors"
        )

    def train_missing(self, **lightning_options: Any) -> None:
        """Train every system whose checkpoint is missing or has had less than its budget.

        Raises
        ------
        AddmError
            If there is no budget and something to train.
        """
        for system in self.systems:
            if system.method is None or system.checkpoint is not None:
                continue
            for seed in self.settings.seeds:
                if not self._trained(system, seed):
                    self._train(system, seed, lightning_options)

    def _trained(self, system: System, seed: int) -> bool:
        path = self.model_path(system, seed)
        if not path.is_file():
            return False
        record = read_specification(path).training
        minutes, iterations = self.settings.minutes, self.settings.iterations
        return (minutes is None or record["seconds"] >= 60 * minutes * 0.99) and (
            iterations is None or record["iterations"] >= iterations
        )

    def _train(self, system: System, seed: int, lightning_options: dict[str, Any]) -> None:
        from napari_addm.training.train import train

        if self.settings.minutes is None and self.settings.iterations is None:
            raise AddmError(
                f"{self.model_path(system, seed)}: has to be trained, so a budget is needed; give "
                "--minutes or --iterations."
            )
        assert system.method is not None
        self.report(f"Training {system.title}, seed {seed}")
        settings = preset_settings(system.method, self.settings.preset, system.length)
        train(
            self.data / "healthy",
            self.model_path(system, seed),
            settings.replace(seed=seed, epochs=1_000_000),
            RunSettings(
                split=self.split_file,
                name=f"{system.title}, benchmark, seed {seed}",
                iterations=self.settings.iterations,
                minutes=self.settings.minutes,
                cache=self.output / "models" / "slices",
            ),
            **lightning_options,
        )

    # detection

    def _detection_settings(self, checkpoint: Checkpoint, seed: int) -> DetectionSettings:
        specification = checkpoint.specification
        draws = None
        if METHODS[specification.method].random and self.settings.draws is not None:
            draws = min(self.settings.draws, specification.detection.draws)
        return DetectionSettings(
            steps=self.settings.steps if METHODS[specification.method].noise_levels else None,
            draws=draws,
            seed=seed,
            device=self.settings.device,
            precision=self.settings.precision,
        )

    def maps(
        self, system: System, seed: int, checkpoint: Checkpoint | None, case: LabelledScan
    ) -> Maps:
        """A case's anomaly maps, computed once."""
        path = self.output / "maps" / f"{system.label}-seed{seed}" / case.group / f"{case.name}.npz"
        if checkpoint is None:
            key = _key("intensity 2", SMOOTHING_MM, EROSION_MM, case.digest)
            return _kept_maps(path, key, lambda: self._intensity_maps(case))
        settings = self._detection_settings(checkpoint, seed)
        key = _key(checkpoint.sha256, settings.model_dump(), _SCORES_KEY, case.digest)
        return _kept_maps(path, key, lambda: self._model_maps(system, checkpoint, settings, case))

    def _intensity_maps(self, case: LabelledScan) -> Maps:
        maps = intensity_baselines(
            case.volume, case.brain, smoothing_mm=SMOOTHING_MM, erosion_mm=EROSION_MM
        )
        smoothed = {name: map_ for name, map_ in maps.items() if name.endswith(", smoothed")}
        shown = case.shown_slice
        return Maps(
            {name: map_[case.brain] for name, map_ in smoothed.items()},
            {name: map_[shown] for name, map_ in smoothed.items()},
        )

    def _model_maps(
        self,
        system: System,
        checkpoint: Checkpoint,
        settings: DetectionSettings,
        case: LabelledScan,
    ) -> Maps:
        self.report(f"{system.title}: {case.group}, {case.name}")
        detection = run(case.volume, checkpoint, settings, case.brain)
        shown = case.shown_slice
        scores: dict[str, NDArray[np.float32]] = {}
        pictures = {"reconstruction": detection.reconstruction.data[shown]}
        for kind, score in SCORES.items():
            anomaly = detection.rescored(score).anomaly.data
            scores[kind], pictures[kind] = anomaly[case.brain], anomaly[shown]
        return Maps(scores, pictures)

    # the strict protocol

    def strict(self, system: System, seed: int) -> list[dict[str, Any]]:
        """Every case under every score, at the threshold that validation chose."""
        checkpoint = self._checkpoint(system, seed)
        found: dict[LabelledScan, Maps] = {}
        for case in self.cases:
            found[case] = self.maps(system, seed, checkpoint, case)
            case.forget()
        path = self.output / "strict" / f"{system.label}-seed{seed}.json"
        key = _key(
            "strict 2",
            {f"{c.group}/{c.name}": (c.digest, _digest(m)) for c, m in found.items()},
            MINIMUM_ML,
        )
        rows: list[dict[str, Any]] = _kept(path, key, lambda: self._judge(system, found))
        return [{"method": system.title, "seed": seed, **row} for row in rows]

    def _judge(self, system: System, found: Mapping[LabelledScan, Maps]) -> list[dict[str, Any]]:
        names = tuple(next(iter(found.values())).scores)
        pairs: dict[str, list[tuple[NDArray[np.float32], NDArray[np.bool_]]]] = {}
        for case in (c for c in found if c.group.endswith("/validation")):
            for score in names:
                pairs.setdefault(score, []).append(
                    (found[case].scores[score], case.lesion[case.brain])
                )
            case.forget()
        thresholds = {score: threshold_by_dice(pairs[score]).threshold for score in names}
        rows = []
        for case, maps in found.items():
            self.report(f"{system.title}: measuring {case.name}")
            for score in names:
                anomaly = np.zeros(case.volume.shape, np.float32)
                anomaly[case.brain] = maps.scores[score]
                row = {"group": case.group, "case": case.name, "score": score}
                rows.append(row | _judged(case, anomaly, thresholds[score]))
            case.forget()
        return rows

    # AnoDDPM's protocol

    def anoddpm(self, system: System, seed: int) -> list[dict[str, Any]]:
        """Four slices through every lesion, squared error above .5."""
        checkpoint = self._checkpoint(system, seed)
        if checkpoint is None:
            return []
        specification = checkpoint.specification
        sampling: dict[str, Any] = {}
        if specification.diffusion is not None:
            level = specification.diffusion.timesteps // 4
            steps = min(level, self.settings.anoddpm_steps)
            sampling = {"level": level, "steps": steps, "sampler": "ddpm"}
        rows = []
        for case in (c for c in self.cases if c.truth is not None):
            path = self.output / "anoddpm" / f"{system.label}-seed{seed}" / f"{case.name}.json"
            settings = DetectionSettings(
                **sampling,
                draws=1,
                seed=seed,
                device=self.settings.device,
                precision=self.settings.precision,
            )
            key = _key("anoddpm 2", checkpoint.sha256, settings.model_dump(), case.digest)

            def judge(
                case: LabelledScan = case, settings: DetectionSettings = settings
            ) -> dict[str, Any]:
                self.report(f"{system.title}: anoddpm protocol, {case.name}")
                slices = anoddpm_slices(case.lesion)
                detection = run(
                    case.volume, checkpoint, settings.replace(slices=slices), case.brain
                )
                plain = ScoreSpecification(kind="squared", smoothing_mm=0.0, erosion_mm=0.0)
                # model values 0..1 to -1..1
                error = 4.0 * detection.rescored(plain).anomaly.data
                judged = asdict(anoddpm_case(error, case.lesion, slices))
                judged["auroc_full"] = judged.pop("auc")  # over all pixels, air included
                return judged

            row = _kept(path, key, judge)
            case.forget()
            rows.append(
                {
                    "method": system.title,
                    "seed": seed,
                    "group": case.group,
                    "case": case.name,
                    "score": "squared",
                    **row,
                }
            )
        return rows

    # curves

    def curves(self, system: System, seed: int, score: str) -> list[dict[str, Any]]:
        """AUPRC of the validation cases against steps and against the noise level."""
        checkpoint = self._checkpoint(system, seed)
        if checkpoint is None or checkpoint.specification.diffusion is None:
            return []
        default = checkpoint.specification.detection
        length = checkpoint.specification.diffusion.timesteps
        assert default.level is not None
        points: list[tuple[str, float, int, int]] = [
            ("steps", steps, default.level, steps)
            for steps in self.settings.curve_steps
            if steps <= default.level
        ]
        points += [
            ("level", share, max(1, round(share * length)), 1)
            for share in self.settings.curve_levels
        ]
        rows = []
        for kind, x, level, steps in points:
            settings = DetectionSettings(
                level=level,
                steps=steps,
                draws=1,
                seed=seed,
                device=self.settings.device,
                precision=self.settings.precision,
            )
            for case in (c for c in self.cases if c.group.endswith("/validation")):
                name = f"{case.name}-level{level}-steps{steps}.json"
                path = self.output / "curves" / f"{system.label}-seed{seed}" / name
                key = _key(
                    "curve 1", checkpoint.sha256, settings.model_dump(), _SCORES_KEY, case.digest
                )

                def measure(
                    case: LabelledScan = case, settings: DetectionSettings = settings
                ) -> dict[str, float]:
                    from napari_addm.metrics.sorted_scores import SortedScores

                    self.report(f"{system.title}: curve, {case.name}, {settings.steps} steps")
                    detection = run(case.volume, checkpoint, settings, case.brain)
                    lesion = case.lesion[case.brain]
                    maps = {k: detection.rescored(score).anomaly for k, score in SCORES.items()}
                    return {
                        kind: SortedScores.of(each.data[case.brain], lesion).auprc or 0.0
                        for kind, each in maps.items()
                    }

                value = _kept(path, key, measure)[score]
                case.forget()
                rows.append({"kind": kind, "x": x, "case": case.name, "auprc": value, "seed": seed})
        return rows

    def _checkpoint(self, system: System, seed: int) -> Checkpoint | None:
        if system.method is None:
            return None
        path = self.model_path(system, seed)
        if not path.is_file():
            raise AddmError(f"{path}: is not trained yet; give --minutes or --iterations.")
        return load_checkpoint(path)

    # all of it

    def results(self, command: str = "") -> dict[str, Any]:
        """Evaluate every system, and bring everything into the report's form.

        Returns
        -------
        dict
            As :func:`napari_addm.benchmark.report.write_report` takes it; plain JSON.
        """
        started = time.time()
        cases: list[dict[str, Any]] = []
        healthy: list[dict[str, Any]] = []
        curves: list[dict[str, Any]] = []
        chosen: dict[str, str] = {}
        for system in self.systems:
            rows: list[dict[str, Any]] = []
            if "strict" in self.settings.protocols:
                for seed in self.seeds(system):
                    rows += self.strict(system, seed)
                chosen[system.title] = _best_score(rows)
                healthy += [r for r in rows if r["group"] == "healthy/calibration"]
                cases += [
                    {"protocol": "strict", **r} for r in rows if r["group"] != "healthy/calibration"
                ]
            if "anoddpm" in self.settings.protocols:
                for seed in self.seeds(system):
                    cases += [{"protocol": "anoddpm", **r} for r in self.anoddpm(system, seed)]
            if system.label in self.settings.curve_systems:
                points = [
                    point
                    for seed in self.seeds(system)
                    for point in self.curves(system, seed, chosen.get(system.title, "structure"))
                ]
                curves += _curve(system.title, points)
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
            "data": self._data(),
            "methods": [m for s in self.systems for m in self._model(s, chosen.get(s.title))],
            "chosen_scores": chosen,
            "summary": list(summarise(cases, healthy, chosen)),
            "comparisons": list(compare(cases, chosen, known_systems()[REFERENCE].title)),
            "cases": cases,
            "healthy": healthy,
            "curves": curves,
            "pictures": self._pictures(chosen) if "strict" in self.settings.protocols else [],
        }

    def _data(self) -> dict[str, Any]:
        groups: dict[str, int] = {
            f"healthy/{part}": len(members)
            for part, members in self.split.get("healthy", {}).items()
        }
        for case in self.cases:
            if case.truth is not None:
                groups[case.group] = groups.get(case.group, 0) + 1
        digest = sha256(*(case.digest.encode() for case in self.cases))
        return {"name": self.data.name, "sha256": digest, "groups": groups}

    def _model(self, system: System, score: str | None) -> Iterator[dict[str, Any]]:
        for seed in self.seeds(system):
            row = {"name": system.label, "label": system.title, "title": system.title, "seed": seed}
            checkpoint = self._checkpoint(system, seed)
            if checkpoint is None:
                yield row | {"source": "the scan's own intensities", "score": score}
                return
            specification = checkpoint.specification
            detection = specification.detection
            sampling = "one pass"
            if specification.diffusion is not None:
                sampling = (
                    f"level {detection.level} of {specification.diffusion.timesteps}, "
                    f"{self.settings.steps or detection.steps} {detection.sampler.upper()} step(s)"
                )
            if METHODS[specification.method].random:
                draws = self._detection_settings(checkpoint, seed).draws or detection.draws
                sampling += f", {draws} draw(s)"
            yield row | {
                "source": METHODS[specification.method].source,
                "parameters": sum(t.numel() for t in checkpoint.weights.values()),
                "iterations": specification.training.get("iterations"),
                "seconds": specification.training.get("seconds"),
                "checkpoint": checkpoint.path.name,
                "sha256": checkpoint.sha256,
                "score": score,
                "sampling": sampling,
                "training_data": specification.training.get("data_sha256"),
            }

    def _pictures(self, chosen: Mapping[str, str]) -> list[dict[str, Any]]:
        """The same slices through every system, as PNG files."""
        from skimage.io import imsave

        folder = self.output / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        seed = self.settings.seeds[0]
        checkpoints = [(system, self._checkpoint(system, seed)) for system in self.systems]
        for case in (c for c in self.cases if c.truth is not None):
            shown = case.shown_slice
            scan = case.volume.data[shown]
            inside = case.volume.data[case.brain]
            low, high = np.percentile(inside, (0.5, 99.5))
            rows_, columns_ = (np.flatnonzero(case.brain.any(axis=a)) for a in ((0, 2), (0, 1)))
            crop = (slice(rows_[0], rows_[-1] + 1), slice(columns_[0], columns_[-1] + 1))
            columns: list[dict[str, str]] = []

            def put(
                label: str,
                image: NDArray[np.float32],
                low: float,
                high: float,
                case: LabelledScan = case,
                crop: tuple[slice, slice] = crop,
                columns: list[dict[str, str]] = columns,
            ) -> None:
                scaled = np.clip((image[crop] - low) / max(high - low, 1e-6), 0, 1)
                name = f"{case.name}-{len(columns)}.png"
                # anterior up; the patient's right on the picture's left, as radiologists look
                picture = np.round(scaled[::-1, ::-1] * 255).astype(np.uint8)
                imsave(folder / name, picture, check_contrast=False)
                columns.append({"label": label, "path": f"pictures/{name}"})

            put("scan", scan, low, high)
            put("truth", case.lesion[shown].astype(np.float32), 0, 1)
            for system, checkpoint in checkpoints:
                maps = self.maps(system, seed, checkpoint, case)
                score = chosen[system.title]
                if "reconstruction" in maps.pictures:
                    put(f"{system.title}", maps.pictures["reconstruction"], low, high)
                top = float(np.percentile(maps.scores[score], 99.5))
                bottom = float(np.percentile(maps.scores[score], 50))
                put(f"{system.title}: map", maps.pictures[score], bottom, top)
            case.forget()
            rows.append(
                {"group": case.group, "case": case.name, "slice": shown, "columns": columns}
            )
        return rows


def _judged(case: LabelledScan, anomaly: NDArray[np.float32], threshold: float) -> dict[str, Any]:
    """One map under the strict protocol."""
    spacing = case.volume.spacing
    if case.truth is None:
        healthy = healthy_case(
            anomaly, case.brain, threshold, spacing=spacing, minimum_ml=MINIMUM_ML
        )
        return asdict(healthy)
    strict = strict_case(
        anomaly, case.lesion, case.brain, threshold, spacing=spacing, minimum_ml=MINIMUM_ML
    )
    judged = asdict(strict)
    return judged | judged.pop("further") | {"lesion_recall": strict.lesions.recall}


def _digest(maps: Maps) -> str:
    return sha256(*(name.encode() + scores.tobytes() for name, scores in maps.scores.items()))


def _hardware() -> str:
    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{platform.machine()}, {torch.get_num_threads()} thread(s){gpu}"


# --- figures --------------------------------------------------------------------------------


def _best_score(rows: Sequence[Mapping[str, Any]]) -> str:
    """The score with the best mean AUPRC over the validation cases."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["group"].endswith("/validation") and row.get("auprc") is not None:
            found.setdefault(row["score"], []).append(row["auprc"])
    return max(found, key=lambda score: float(np.mean(found[score])))


def _scores(rows: Iterable[Mapping[str, Any]], metric: str) -> dict[str, list[float | None]]:
    """For each case its value of every seed."""
    scores: dict[str, list[float | None]] = {}
    for row in rows:
        scores.setdefault(row["case"], []).append(row.get(metric))
    return scores


def _rows_of(
    cases: Iterable[Mapping[str, Any]], chosen: Mapping[str, str]
) -> dict[tuple[str, str], dict[str, list[Mapping[str, Any]]]]:
    """(protocol, group) to method to the rows of its chosen score."""
    found: dict[tuple[str, str], dict[str, list[Mapping[str, Any]]]] = {}
    for row in cases:
        if row["protocol"] == "strict" and row["score"] != chosen.get(row["method"]):
            continue
        place = found.setdefault((row["protocol"], row["group"]), {})
        place.setdefault(row["method"], []).append(row)
    return found


def summarise(
    cases: Sequence[Mapping[str, Any]],
    healthy: Sequence[Mapping[str, Any]],
    chosen: Mapping[str, str],
) -> Iterator[dict[str, Any]]:
    """Means over subjects with bootstrap intervals, one for each method, group and metric."""
    for (protocol, group), methods in _rows_of(cases, chosen).items():
        for method, rows in methods.items():
            further = rated_metrics().keys() - BUILT_IN if protocol == "strict" else ()
            for metric in (*METRICS[protocol], *sorted(further)):
                yield _mean_row(protocol, group, method, metric, rows)
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for row in healthy:
        if row["score"] == chosen.get(row["method"]):
            by_method.setdefault(row["method"], []).append(row)
    for method, rows in by_method.items():
        yield _mean_row("strict", "healthy/calibration", method, "false_positive_ml", rows)


def _mean_row(
    protocol: str, group: str, method: str, metric: str, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    interval = mean_interval(_scores(rows, metric))
    return {
        "protocol": protocol,
        "group": group,
        "method": method,
        "score": rows[0]["score"],
        # the tables have one column for both protocols' AUC and best Dice
        "metric": {
            "auc": "auroc",
            "oracle_best_dice": "best_dice",
            "auroc_field": "auroc_full",
        }.get(metric, metric),
        "mean": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "n": interval.subjects,
        "undefined": interval.excluded,
    }


def compare(
    cases: Sequence[Mapping[str, Any]], chosen: Mapping[str, str], reference: str
) -> Iterator[dict[str, Any]]:
    """The reference system against every other, on the same cases."""
    metrics = {"strict": ("auprc", "dice", "auroc"), "anoddpm": ("dice", "auroc_full")}
    for (protocol, group), methods in _rows_of(cases, chosen).items():
        if reference not in methods:
            continue
        for method, rows in methods.items():
            if method == reference:
                continue
            for metric in metrics[protocol]:
                found = paired_difference(
                    _scores(methods[reference], metric), _scores(rows, metric)
                )
                yield {
                    "protocol": protocol,
                    "group": group,
                    "metric": metric,
                    "first": reference,
                    "second": method,
                    "score": rows[0]["score"],
                    "difference": found.difference.mean,
                    "low": found.difference.low,
                    "high": found.difference.high,
                    "p": found.p,
                    "smallest_p": found.smallest_p,
                    "n": found.difference.subjects,
                }


def _curve(method: str, points: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    places: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    for point in points:
        places.setdefault((point["kind"], point["x"]), []).append(point)
    for (kind, x), rows in places.items():
        interval = mean_interval(_scores(rows, "auprc"))
        yield {
            "method": method,
            "kind": kind,
            "x": x,
            "metric": "auprc",
            "mean": interval.mean,
            "low": interval.low,
            "high": interval.high,
            "n": interval.subjects,
        }


def write_results(results: Mapping[str, Any], output: Path) -> list[Path]:
    """``results.json``, ``results.csv`` and ``report.html`` in a folder.

    Returns
    -------
    list of Path
        What was written.
    """
    from napari_addm.benchmark.report import write_csv, write_report

    output.mkdir(parents=True, exist_ok=True)
    whole = output / "results.json"
    whole.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
    table = output / "results.csv"
    write_csv(results, table)
    page = write_report(results, output / "report.html", output)
    return [page, table, whole]
