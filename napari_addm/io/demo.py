"""Where the bundled demo case and the atlas of regions lie."""

from pathlib import Path

SAMPLE_DATA = Path(__file__).parent / "sample_data"
DEMO_SCAN = SAMPLE_DATA / "demo_T1w.nii.gz"
DEMO_TRUTH = SAMPLE_DATA / "demo_lesion.nii.gz"
DEMO_CHECKPOINT = SAMPLE_DATA / "demo_addm.safetensors"
ATLAS = SAMPLE_DATA / "brain_regions.npz"
