"""Whether ADDM's adversary helps: fine-tunings with and without it, from one start, seed by seed.

    python benchmarks/adversary.py HEALTHY DATA --split SPLIT.json --start CHECKPOINT -o RUNS/
        [--keep FOLDER] [--variants none,step-0.2] [--seeds 0,1,2,3,4] [--iterations 148]

HEALTHY holds the scans that SPLIT.json names for training and validation; DATA's ``split.json``
names the validation tumours. Test cases are not read. Runs of one seed see the same slices,
augmentation, timesteps and noise. A new discriminator is at chance for hundreds of iterations,
longer than these runs; so it first learns alone against the denoiser of the start, once for each
way of judging, and all seeds start with it. Each finished run leaves a JSON file in RUNS, so that a
second call does what is missing; ``--variants ""`` only writes the table, RUNS/table.md.

To stay cheap, the figures by number of sampling steps come from one draw: the healthy ones from
two slices of each validation brain, the AUPRC from eight slices around the largest part of each
tumour. The AUPRC under the default score comes from whole scans.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from scipy.stats import ttest_1samp
from ways import Bench, Loop, Way, machine, ours, validation_tumours, write

from napari_addm.checkpoint.file import Checkpoint, load_checkpoint
from napari_addm.detection.scoring import voxel_scores
from napari_addm.detection.smoothing import smooth_and_average
from napari_addm.detection.symmetry import subtract_mirror_score
from napari_addm.methods.addm import AdversarialSettings
from napari_addm.methods.addm.model import AddmObjective, denoise, discriminator_loss
from napari_addm.methods.base import fresh_noise, random_timesteps
from napari_addm.methods.loading import load_network
from napari_addm.metrics.sorted_scores import SortedScores
from napari_addm.training.augmentation import augment
from napari_addm.training.data import TrainingData, to_model_values, unpack
from napari_addm.training.labelled_scans import LabelledScan
from napari_addm.training.module import TrainingModule
from napari_addm.training.settings import RunSettings, preset_settings
from napari_addm.training.train import TrainingRun

VARIANTS: dict[str, dict[str, Any]] = {
    "none": {"weight": 0.0},
    "previous-0.05": {"weight": 0.05},
    "step-0.05": {"discriminator_input": "step", "share": 0.05},
    "step-0.2": {"discriminator_input": "step", "share": 0.2},
    "step-0.5": {"discriminator_input": "step", "share": 0.5},
    "clean-0.2": {"discriminator_input": "clean", "share": 0.2, "level_weighting": "min_snr"},
}
"""Options of the adversary; previous-0.05 is our reading of the paper, the others have a share."""

STEPS = (1, 2, 5, 10, 25)
SLAB = 8
"""Slices of a tumour scan whose AUPRC is measured by number of steps."""
HEIGHTS = (0.4, 0.6)
"""Where in a healthy brain the slices are whose reconstruction is measured."""
BATCH = 8


def main() -> None:
    """Do the runs that are missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("healthy", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--start", type=Path, required=True, help="checkpoint of size small")
    parser.add_argument("--keep", type=Path, help="folder for slices and trained checkpoints")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--iterations", type=int, default=148)
    parser.add_argument("--ahead", type=int, default=300, help="of the discriminator, iterations")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--precision", default="bf16-mixed")
    options = parser.parse_args()
    options.keep = options.keep or options.output / "trained"
    options.cases = validation_tumours(options.data)
    variants = [name for name in options.variants.split(",") if name]
    for seed in (int(seed) for seed in options.seeds.split(",")):
        for variant in variants:
            path = options.output / f"{variant}-seed{seed}.json"
            if not path.exists():
                found = one_run(variant, seed, options)
                write(path, found)
                print(f"{path.stem}: AUPRC {mean(found['default']):.3f}", flush=True)
    runs = [json.loads(path.read_text()) for path in sorted(options.output.glob("*.json"))]
    lines = table(runs)
    (options.output / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


# --- one run --------------------------------------------------------------------------------


class Log(Callback):
    """Keeps what is logged at every iteration; gradient norms come once an epoch."""

    def __init__(self) -> None:
        self.columns: dict[str, list[float]] = {}

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Note the figures of an iteration."""
        for name, value in trainer.callback_metrics.items():
            if "/" in name and (batch_idx == 0 or "norm" not in name):
                self.columns.setdefault(name, []).append(float(f"{float(value):.4g}"))


class HeadStart(Callback):
    """Gives a training a discriminator that has learned against the denoiser of the start.

    Parameters
    ----------
    folder : Path
        Where the discriminators are kept, one for each way of judging.
    images : ndarray of uint8, shape (N, H, W)
        Training slices.
    start : str
        Hash of the start.
    iterations : int
    """

    def __init__(
        self, folder: Path, images: NDArray[np.uint8], start: str, iterations: int
    ) -> None:
        self.folder, self.images = folder, images
        self.start, self.iterations = start, iterations
        self.accuracy: list[float] = []

    def on_fit_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Load the discriminator, or teach it first."""
        assert isinstance(pl_module, TrainingModule)
        objective = pl_module.objective
        if not isinstance(objective, AddmObjective) or not objective.adversarial:
            return
        judging = objective.options.replace(weight=1.0, share=None).model_dump_json()
        name = hashlib.sha256(f"{self.start} {judging} {self.iterations}".encode()).hexdigest()[:16]
        path = self.folder / f"discriminator-{name}.pt"
        if not path.exists():
            self.teach(objective)
            kept = {"weights": objective.discriminator.state_dict(), "accuracy": self.accuracy}
            torch.save(kept, path)
        kept = torch.load(path, weights_only=True)
        objective.discriminator.load_state_dict(kept["weights"])
        self.accuracy = kept["accuracy"]

    def teach(self, objective: AddmObjective) -> None:
        """Train the discriminator alone, with its own Adam, in batches of 8."""
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        options, discriminator = objective.options, objective.discriminator
        optimizer = torch.optim.Adam(
            discriminator.parameters(), lr=objective.settings.learning_rate
        )
        for _ in range(self.iterations):
            chosen = torch.randint(len(self.images), (8,), generator=generator).numpy()
            values, mask = unpack(torch.from_numpy(self.images[chosen])[:, None])
            clean = to_model_values(*augment(values, mask, generator))
            levels = random_timesteps(len(clean), objective.max_timestep, generator)
            noise = partial(fresh_noise, objective.draw_noise, clean, generator)
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                sample = denoise(
                    objective.network, objective.schedule, clean, levels, noise, options
                )
            if sample.fake is None or sample.real is None:
                continue
            with torch.autocast("cpu", torch.bfloat16):
                judgement = discriminator_loss(
                    discriminator, sample.real, sample.fake, options, sample.weights
                )
            optimizer.zero_grad()
            judgement.loss.backward()
            optimizer.step()
            right = (judgement.accuracy_real + judgement.accuracy_fake) / 2
            self.accuracy.append(round(float(right), 3))


def one_run(variant: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Fine-tune and measure one variant with one seed."""
    adversary = AdversarialSettings(**VARIANTS[variant])
    settings = preset_settings().replace(
        options=adversary,
        seed=seed,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        slices_per_volume=2,  # short epochs, so that gradient norms are logged often
    )
    output = options.keep / f"{variant}-seed{seed}.safetensors"
    run = RunSettings(
        split=options.split,
        iterations=options.iterations,
        start_from=options.start,
        cache=options.keep,
        validate_every=10_000,
        restart=True,
    )
    started = time.perf_counter()
    training = TrainingRun(options.healthy, output, settings, run, lambda stage, done, total: None)
    training.check_state()
    log = Log()
    images = training.data.images[~training.data.validation]
    assert training.start_from is not None
    ahead = HeadStart(options.keep, images, training.start_from.sha256, options.ahead)
    training.fit([ahead, log], {"precision": options.precision, "enable_progress_bar": False})
    shutil.rmtree(training.place)
    trained = time.perf_counter()
    checkpoint = load_checkpoint(output)
    if not (start := options.output / "start.json").exists():
        # in the trained ones' intensities, so that nothing but the weights differs
        before = replace(checkpoint, weights=training.start_from.weights)
        write(
            start, {"variant": "start", "seed": 0, **measure(before, options.cases, training.data)}
        )
    return {
        "variant": variant,
        "seed": seed,
        "adversary": adversary.model_dump(),
        "iterations": len(log.columns["train/l2"]),
        **{key: getattr(settings, key) for key in ("batch_size", "learning_rate")},
        "start_sha256": training.start_from.sha256,
        "data_sha256": training.data.digest,
        "machine": machine(),
        **measure(checkpoint, options.cases, training.data),
        "seconds": {
            "training": round(trained - started),
            "measuring": round(time.perf_counter() - trained),
        },
        "accuracy_ahead": ahead.accuracy,
        "log": log.columns,
    }


# --- measures -------------------------------------------------------------------------------


def measure(
    checkpoint: Checkpoint, cases: Sequence[LabelledScan], data: TrainingData
) -> dict[str, Any]:
    """Measure a checkpoint: AUPRC by case, and what depends on the number of sampling steps."""
    detection = checkpoint.specification.detection
    assert detection.level is not None
    network = load_network(checkpoint).to(torch.bfloat16)
    bench = Bench(checkpoint, cases)
    loops = {
        steps: ours(checkpoint, detection.level, steps, network=network)
        for steps in sorted({*STEPS, detection.steps})
    }
    way = Way(
        "ours",
        loops[detection.steps],
        detection.level,
        detection.steps,
        detection.draws,
        "bfloat16",
        BATCH,
    )
    quality = bench.quality(way, BATCH)
    by_steps = {
        str(steps): {
            "auprc": {case.name: slab_auprc(bench, case, loops[steps]) for case in cases},
            **healthy_figures(bench, data, loops[steps]),
        }
        for steps in STEPS
    }
    return {
        "default": {row["case"]: round(row["auprc"], 4) for row in quality},
        "steps": by_steps,
    }


def slab_auprc(bench: Bench, case: LabelledScan, loop: Loop) -> float:
    """AUPRC inside the brain of the slices around the largest part of a lesion."""
    prepared = bench.prepared(case)
    slices = prepared.slices
    near = slices.model_slices_for([case.shown_slice])
    first = int(np.clip(near[0] - SLAB // 2, 0, len(slices.images) - SLAB))
    chosen = np.zeros(len(slices.images), bool)
    chosen[first : first + SLAB] = True
    images = slices.images.copy()
    images[chosen] = reconstruct(bench, slices.images[chosen], slices.slice_index[chosen], loop)
    drawn = slices.to_model_volume((images + 1.0) / np.float32(2.0))[None]

    score = bench.checkpoint.specification.detection.score
    spacing = slices.spacing_mm
    inner = prepared.inner(score.erosion_mm)
    outside = np.ones(len(inner), bool)
    outside[slices.slice_index[chosen]] = False
    inner[outside] = False
    values = voxel_scores(score.kind, prepared.scan, drawn, prepared.mask, spacing)
    map_, _ = smooth_and_average(values, inner, score.smoothing_mm, spacing)
    if score.symmetry:
        map_ = subtract_mirror_score(map_, inner, prepared.mirror_plane)
    (native,) = slices.to_native(map_, valid=chosen)
    seen = case.brain & slices.finished_native_slices(chosen)[:, None, None]
    return round(float(SortedScores.of(native[seen], case.lesion[seen]).auprc or 0.0), 4)


def healthy_figures(bench: Bench, data: TrainingData, loop: Loop) -> dict[str, dict[str, float]]:
    """Error and sharpness of reconstructed healthy brains, by brain.

    The error is the mean absolute difference inside the brain, in model values of 0..1. The
    sharpness is the mean gradient of the reconstruction, as a share of the scan's.
    """
    brains = np.unique(data.volumes[data.validation])
    rows = []
    for brain in brains:
        members = np.flatnonzero(data.volumes == brain)
        rows += [int(members[round(height * (len(members) - 1))]) for height in HEIGHTS]
    values, masks = unpack(torch.from_numpy(data.images[rows])[:, None])
    clean = to_model_values(values, masks)[:, 0].numpy()
    drawn = reconstruct(bench, clean, rows, loop)
    found: dict[str, dict[str, float]] = {"healthy_error": {}, "healthy_sharpness": {}}
    for n, brain in enumerate(brains):
        part = slice(n * len(HEIGHTS), (n + 1) * len(HEIGHTS))
        mask = masks[part, 0].numpy()
        error = float(np.abs(drawn[part] - clean[part])[mask].mean()) / 2.0
        edges = [gradient(images[part])[mask].mean() for images in (drawn, clean)]
        found["healthy_error"][str(brain)] = round(error, 5)
        found["healthy_sharpness"][str(brain)] = round(float(edges[0] / edges[1]), 4)
    return found


def gradient(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Size of the gradient within each slice; shape of ``images`` (N, H, W)."""
    vertical, horizontal = np.gradient(images, axis=(1, 2))
    size: NDArray[np.float32] = np.hypot(vertical, horizontal)
    return size


def reconstruct(
    bench: Bench, images: NDArray[np.float32], rows: Sequence[int] | NDArray[Any], loop: Loop
) -> NDArray[np.float32]:
    """Reconstruct slices (N, H, W) with the noise of draw 0 of their rows."""
    found = []
    for first in range(0, len(images), BATCH):
        part = slice(first, first + BATCH)
        noises = bench.noises([(int(row), 0) for row in rows[part]])
        found.append(loop(torch.from_numpy(images[part])[:, None], noises)[:, 0].float().numpy())
    return np.concatenate(found)


# --- the table ------------------------------------------------------------------------------


def mean(figures: dict[str, float]) -> float:
    """Average over cases or brains."""
    return float(np.mean(list(figures.values())))


def figure(run: dict[str, Any], key: str, steps: int) -> float:
    """Return a run's mean over cases or brains, after some steps or of the default score."""
    return mean(run["steps"][str(steps)][key] if steps else run[key])


MEASURES = {
    "auprc": "AUPRC around the lesion",
    "healthy_error": "healthy error",
    "healthy_sharpness": "healthy sharpness",
}
"""What is measured by number of steps."""


def table(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Write mean, range and paired difference to lambda = 0 of every figure as Markdown."""
    by_seed: dict[str, dict[int, dict[str, Any]]] = {}
    for run in runs:
        by_seed.setdefault(run["variant"], {})[run["seed"]] = run
    names = [name for name in VARIANTS if name in by_seed]
    lines = ["| adversary | " + " | ".join(("seeds", *BEHAVIOUR)) + " |", "|---|---|---|---|---|"]
    for name in names:
        seeds = list(by_seed[name].values())
        lines += [f"| {name} | {len(seeds)} | {behaviour(seeds)} |"]
    names = [*(["start"] if "start" in by_seed else []), *names]
    lines += ["", "| figure | " + " | ".join(names) + " |", "|" + "---|" * (len(names) + 1)]
    figures = [("AUPRC, default score, whole scans", "default", 0)]
    for key, words in MEASURES.items():
        figures += [(f"{words}, {steps} step{'s' * (steps > 1)}", key, steps) for steps in STEPS]
    for words, key, steps in figures:
        cells = [words]
        for name in names:
            own, base = (
                {seed: figure(run, key, steps) for seed, run in by_seed.get(each, {}).items()}
                for each in (name, "none")
            )
            cells.append(cell(own, {} if name in ("start", "none") else base))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


BEHAVIOUR = ("adversarial gradient / L2's", "lambda", "D right on real, fake")


def behaviour(runs: Sequence[dict[str, Any]]) -> str:
    """Describe the adversary: medians over the second half of all runs."""

    def late(name: str) -> list[float]:
        logs = [run["log"].get(name, []) for run in runs]
        return [value for log in logs for value in log[len(log) // 2 :]]

    norms = [late(f"gradient_norm/{kind}") for kind in ("adversarial", "l2")]
    if not norms[0]:
        return "- | - | -"
    ratio = np.median(np.array(norms[0]) / norms[1])
    weights = late("train/adversarial_weight")
    right = [np.median(late(f"discriminator/accuracy_{kind}")) for kind in ("real", "fake")]
    weight = f"{np.median(weights):.2g}" if weights else "fixed"
    return f"{ratio:.2g} | {weight} | {right[0]:.2f}, {right[1]:.2f}"


def cell(own: dict[int, float], base: dict[int, float]) -> str:
    """Write mean and range; below them the mean paired difference, with its 95 % t interval.

    Fewer than five pairs have their range instead.
    """
    values = list(own.values())
    if len(values) == 1:
        return f"{values[0]:.4f}"
    text = f"{np.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})"
    paired = [own[seed] - base[seed] for seed in own if seed in base]
    if len(paired) >= 5:
        low, high = ttest_1samp(paired, 0.0).confidence_interval(0.95)
        text += f"<br>{np.mean(paired):+.4f} [{low:+.4f}, {high:+.4f}]"
    elif paired:
        text += f"<br>{np.mean(paired):+.4f} ({min(paired):+.4f} to {max(paired):+.4f})"
    return text


if __name__ == "__main__":
    main()
