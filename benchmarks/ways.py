"""Several ways from a slice to its reconstruction with one network, and what each finds.

What ``peers.py`` and ``curve.py`` share. All ways get the same weights, the same
prepared slices and the same noise fields, and their reconstructions go through the same score.
A folder for what is finished (`Bench.keep`) lets a long computation go on where it was stopped.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import platform
import sys
import time
import types
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_addm.checkpoint.file import Checkpoint
from napari_addm.detection.preparation import prepare
from napari_addm.detection.scoring import voxel_scores
from napari_addm.detection.session import PreparedScan
from napari_addm.detection.smoothing import smooth_and_average
from napari_addm.detection.symmetry import subtract_mirror_score
from napari_addm.diffusion.noise import SliceNoise
from napari_addm.diffusion.samplers.anoddpm import SAMPLER
from napari_addm.diffusion.sampling import sampling_levels
from napari_addm.diffusion.schedules import LinearSchedule
from napari_addm.methods.base import Sampling, at_precision
from napari_addm.methods.loading import load_network
from napari_addm.metrics.sorted_scores import SortedScores
from napari_addm.registry import METHODS
from napari_addm.training.labelled_scans import LabelledScan, find_cases, read_split

Noise = Callable[[int], Tensor]
"""The noise (B, 1, H, W) of a step; 0 is what the slices are noised with."""

Loop = Callable[[Tensor, Noise], Tensor]
"""From slices (B, 1, H, W) in -1..1 to their reconstructions."""


@dataclass(frozen=True)
class Way:
    """One way to reconstruct, with its settings.

    Attributes
    ----------
    name : str
    loop : Loop
    level, steps, draws : int
    precision : str
        Number format of the network, for the table.
    batch : int
        Slices at once while it is timed.
    kept : str
        Name of the files of its reconstructions, for rows that share them; by default its own.
    """

    name: str
    loop: Loop
    level: int
    steps: int
    draws: int
    precision: str
    batch: int
    kept: str = ""

    @property
    def calls(self) -> int:
        """Network calls for each slice."""
        return self.steps * self.draws


@dataclass
class Bench:
    """The cases, and the score of their reconstructions.

    Attributes
    ----------
    checkpoint : Checkpoint
    cases : sequence of LabelledScan
        Labelled scans without skull.
    keep : Path or None
        Where reconstructions are kept, batch by batch.
    """

    checkpoint: Checkpoint
    cases: Sequence[LabelledScan]
    keep: Path | None = None
    _prepared: dict[str, PreparedScan] = field(default_factory=dict)

    @cached_property
    def schedule(self) -> LinearSchedule:
        """The schedule of the chain that the network was trained on."""
        assert self.checkpoint.specification.diffusion is not None
        return LinearSchedule(self.checkpoint.specification.diffusion.timesteps)

    def prepared(self, case: LabelledScan) -> PreparedScan:
        """Prepare a case on the model grid."""
        if case.name not in self._prepared:
            slices = prepare(case.volume, self.checkpoint.specification.preparation, case.brain)
            self._prepared[case.name] = PreparedScan(slices, case.name)
        return self._prepared[case.name]

    def noises(self, pairs: Sequence[tuple[int, int]], seed: int = 0) -> Noise:
        """Return the noise that a detection draws for some pairs of slice and draw."""
        assert self.checkpoint.specification.diffusion is not None
        noise = SliceNoise(self.checkpoint.specification.diffusion.noise, seed)
        height, width = self.checkpoint.specification.preparation.size

        def fields(step: int) -> Tensor:
            return torch.cat(
                [noise.sample([index], (1, height, width), draw, step) for index, draw in pairs]
            )

        return fields

    def reconstruct(
        self, way: Way, case: LabelledScan, draw: int, batch: int
    ) -> NDArray[np.float32]:
        """Reconstruct all slices of a case in batches; float32, shape (N, H, W)."""
        slices = self.prepared(case).slices
        path = None
        done: list[NDArray[np.float32]] = []
        if self.keep is not None:
            self.keep.mkdir(parents=True, exist_ok=True)
            named = f"{self.checkpoint.sha256} {case.digest} {way.kept or way.name} {way.precision}"
            chain = f"{way.level} {way.steps} {draw} {batch}"
            name = hashlib.sha256(f"{named} {chain}".encode()).hexdigest()[:16]
            path = self.keep / f"{name}.npy"
            if path.exists():
                done = [np.load(path)]
        start = sum(len(part) for part in done)
        for first in range(start, len(slices.images), batch):
            images = torch.from_numpy(slices.images[first : first + batch])[:, None]
            rows = slices.slice_index[first : first + batch]
            found = way.loop(images, self.noises([(int(row), draw) for row in rows]))
            done.append(found[:, 0].float().numpy())
            if path is not None:
                half = path.with_suffix(".part.npy")
                np.save(half, np.concatenate(done))
                half.replace(path)
        return np.concatenate(done)

    def quality(self, way: Way, batch: int = 8) -> list[dict[str, Any]]:
        """Measure AUPRC and best Dice of each case, inside the brain, on the scan's own grid."""
        rows = []
        for case in self.cases:
            prepared = self.prepared(case)
            drawn = np.stack(
                [
                    prepared.slices.to_model_volume(
                        (self.reconstruct(way, case, draw, batch) + 1.0) / np.float32(2.0)
                    )
                    for draw in range(way.draws)
                ]
            )
            map_ = self.anomaly(prepared, drawn)
            found = SortedScores.of(map_[case.brain], case.lesion[case.brain])
            rows.append({"case": case.name, "auprc": found.auprc, "best_dice": found.best_dice})
        return rows

    def anomaly(self, prepared: PreparedScan, drawn: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score reconstructions (draws, D, H, W) as the checkpoint says, on the scan's grid."""
        score = self.checkpoint.specification.detection.score
        spacing = prepared.slices.spacing_mm
        values = voxel_scores(score.kind, prepared.scan, drawn, prepared.mask, spacing)
        inner = prepared.inner(score.erosion_mm)
        map_, _ = smooth_and_average(values, inner, score.smoothing_mm, spacing)
        if score.symmetry:
            map_ = subtract_mirror_score(map_, inner, prepared.mirror_plane)
        (native,) = prepared.slices.to_native(map_)
        return native


def validation_tumours(data: Path) -> list[LabelledScan]:
    """Find the labelled cases that settings are chosen on."""
    cases = find_cases(data, read_split(data / "split.json"))
    return [case for case in cases if case.group == "tumour/validation"]


def mean(rows: Sequence[dict[str, Any]], key: str) -> float:
    """Average over the cases."""
    return float(np.mean([row[key] for row in rows]))


def machine() -> str:
    """Describe the machine in general terms."""
    capable = torch.cpu.get_capabilities()
    bfloat16 = capable.get("avx512_bf16") or capable.get("amx_bf16")
    return (
        f"{platform.machine()}, {os.cpu_count()} processors"
        f"{', computes in bfloat16' if bfloat16 else ''}, {torch.get_num_threads()} thread(s), "
        f"torch {torch.__version__.partition('+')[0]}"
    )


def clock(cpu: bool) -> Callable[[], float]:
    """Return a clock: wall-clock seconds, or CPU seconds with one thread on a busy machine."""
    if cpu:
        torch.set_num_threads(1)
        return time.process_time
    return time.perf_counter


def write(path: Path | None, found: dict[str, Any]) -> None:
    """Write the figures as JSON, if there is a path."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")


# --- the ways -------------------------------------------------------------------------------


def plain_network(checkpoint: Checkpoint) -> nn.Module:
    """Build the network in MONAI's parts, without what `load_network` makes faster."""
    specification = checkpoint.specification
    method = METHODS[specification.method].load()
    network = method.build(specification.network, specification.preparation.size)
    weights = {name: value.float() for name, value in checkpoint.network_weights.items()}
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)


def ours(
    checkpoint: Checkpoint,
    level: int,
    steps: int,
    sampler: str = "ddim",
    dtype: str = "bfloat16",
    network: nn.Module | None = None,
) -> Loop:
    """Reconstruct as a detection does."""
    network = network or load_network(checkpoint).to(getattr(torch, dtype))
    method = METHODS[checkpoint.specification.method].load()
    sampling = Sampling(tuple(sampling_levels(level, steps)), sampler)

    def loop(clean: Tensor, noise: Noise) -> Tensor:
        chain = method.reconstruct(
            network,
            checkpoint.specification,
            clean,
            sampling,
            lambda step, shape=None: noise(step),
        )
        return deque(chain, maxlen=1)[0].image

    return loop


def ours_as_anoddpm(checkpoint: Checkpoint, level: int, schedule: LinearSchedule) -> Loop:
    """Follow AnoDDPM's mathematics with our sampler: every level, its variance, its clipping."""
    network = at_precision(load_network(checkpoint))
    levels = sampling_levels(level, level)

    def loop(clean: Tensor, noise: Noise) -> Tensor:
        noisy = schedule.add_noise(clean, noise(0), level)
        chain = SAMPLER.sample(network, noisy, levels, schedule, noise=noise, clip=(-1.0, 1.0))
        return deque(chain, maxlen=1)[0]

    return loop


class AsPeersCall(nn.Module):
    """Our network as the other libraries call one: timesteps from 0, of any type and shape.

    Parameters
    ----------
    network : nn.Module
    autocast : bool
        Whether torch chooses bfloat16 layer by layer, as the libraries' guides do it.
    """

    def __init__(self, network: nn.Module, autocast: bool = False) -> None:
        super().__init__()
        self.network = network
        self.autocast = autocast
        self.dtype = next(network.parameters()).dtype

    def forward(self, x: Tensor, timesteps: Tensor, context: None = None) -> Tensor:
        """Predict the noise in x."""
        levels = timesteps.long().reshape(-1).expand(len(x)) + 1
        precision: AbstractContextManager[Any] = nullcontext()
        if self.autocast:
            precision = torch.autocast("cpu", torch.bfloat16)
        with torch.no_grad(), precision:
            found: Tensor = self.network(x.to(self.dtype), levels)
        return found.to(x.dtype)


def _strided(level: int, steps: int, length: int) -> tuple[list[int], int]:
    """Timesteps from 0, and the number of steps from which MONAI and diffusers derive a stride."""
    stride = level // steps
    count = length // stride
    if steps > 1 and (level % steps or length // count != stride):
        raise ValueError(f"their schedulers have no {steps} equal steps from level {level}")
    return list(range(level - 1, -1, -stride))[:steps], count


def monai(
    network: AsPeersCall, level: int, steps: int, schedule: LinearSchedule, kind: str = "ddim"
) -> Loop:
    """MONAI's DiffusionInferer with one of its schedulers, started at a noise level.

    With ``kind="ddpm"`` it takes every level, and its scheduler adds white noise.
    """
    from monai.inferers.inferer import DiffusionInferer
    from monai.networks.schedulers.ddim import DDIMScheduler
    from monai.networks.schedulers.ddpm import DDPMScheduler

    scheduler: Any = (DDIMScheduler if kind == "ddim" else DDPMScheduler)(
        num_train_timesteps=schedule.timesteps,
        schedule="linear_beta",
        beta_start=float(schedule.betas[0]),
        beta_end=float(schedule.betas[-1]),
        clip_sample=False,
    )
    timesteps, count = _strided(level, steps, schedule.timesteps)
    scheduler.set_timesteps(count)
    scheduler.timesteps = torch.tensor(timesteps)
    inferer: Any = DiffusionInferer(scheduler)

    def loop(clean: Tensor, noise: Noise) -> Tensor:
        torch.manual_seed(0)
        start = torch.full((len(clean),), level - 1)
        noisy = scheduler.add_noise(original_samples=clean, noise=noise(0), timesteps=start)
        found: Tensor = inferer.sample(
            input_noise=noisy, diffusion_model=network, scheduler=scheduler, verbose=False
        )
        return found

    return loop


def diffusers(
    network: AsPeersCall, level: int, steps: int, schedule: LinearSchedule, kind: str = "ddim"
) -> Loop:
    """The loop of diffusers' guides, started at a noise level as its image-to-image pipelines do.

    With ``kind="ddpm"`` the fresh noise is white: its scheduler draws no other.
    """
    from diffusers import DDIMScheduler, DDPMScheduler

    timesteps, count = _strided(level, steps, schedule.timesteps)
    betas = schedule.betas.float().numpy()
    scheduler: Any
    if kind == "ddim":
        scheduler = DDIMScheduler(schedule.timesteps, trained_betas=betas, clip_sample=False)
        scheduler.set_timesteps(count)
        scheduler.timesteps = torch.tensor(timesteps)
    else:
        scheduler = DDPMScheduler(schedule.timesteps, trained_betas=betas, clip_sample=False)
        scheduler.set_timesteps(timesteps=timesteps)

    def loop(clean: Tensor, noise: Noise) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        start = torch.full((len(clean),), level - 1)
        image = scheduler.add_noise(clean, noise(0), start)
        for t in scheduler.timesteps:
            predicted = network(image, t)
            image = scheduler.step(predicted, t, image, generator=generator).prev_sample
        found: Tensor = image
        return found

    return loop


def anoddpm(
    folder: Path, network: AsPeersCall, level: int, size: tuple[int, int], schedule: LinearSchedule
) -> Loop:
    """Run AnoDDPM's public code from a checkout, unchanged: every level from the first to 0.

    Only its network and its noise are replaced by ours. The code imports numba (for simplex
    noise), torchvision, scikit-image, scikit-learn and matplotlib (for figures and metrics); of
    these, torchvision may be missing here, because nothing that runs needs it.
    """
    stand_ins = {}
    if importlib.util.find_spec("torchvision") is None:
        stand_ins = {name: types.ModuleType(name) for name in ("torchvision", "torchvision.utils")}
    sys.path.insert(0, str(folder))
    sys.modules.update(stand_ins)
    try:
        module = importlib.import_module("GaussianDiffusion")
    finally:
        sys.path.remove(str(folder))
        for name in stand_ins:
            del sys.modules[name]
    betas = module.get_beta_schedule(schedule.timesteps, "linear")
    diffusion = module.GaussianDiffusionModel(size, betas, noise="gauss")

    def loop(clean: Tensor, noise: Noise) -> Tensor:
        # its own experiments exchange the noise in the same two places
        diffusion.noise_fn = lambda x, t: noise(0)
        found: Tensor = diffusion.forward_backward(
            network,
            clean,
            see_whole_sequence=None,
            t_distance=level,
            denoise_fn=lambda x, t: noise(level - int(t[0])),
        )
        return found

    return loop
