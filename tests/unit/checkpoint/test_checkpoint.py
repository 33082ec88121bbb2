"""Checkpoints: an exact round trip, and a refusal in one sentence for every fault."""

import hashlib
import io
import json
import os
import pickle
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_addm.checkpoint.file import load_checkpoint, read_specification, save_checkpoint
from napari_addm.checkpoint.specification import (
    DetectionSpecification,
    DiffusionSpecification,
    FalseAlarmSpecification,
    ModelSpecification,
    PreparationSpecification,
    ScoreSpecification,
)
from napari_addm.errors import CheckpointError
from napari_addm.methods.network_specifications import UNetSpecification
from napari_addm.registry import METHODS


def specification(**changes):
    parts = {
        "method": "addm",
        "name": "Tiny, for tests",
        "network": UNetSpecification(
            unshuffle=2, channels=(4, 8), res_blocks=(1, 1), attention=(False, True),
            head_channels=4, norm_groups=4,
        ),
        "diffusion": DiffusionSpecification(timesteps=300, noise="pyramid"),
        "preparation": PreparationSpecification(
            spacing_mm=(3.0, 1.5, 1.5), size=(32, 48), percentiles=(1, 50, 99),
            landmarks=(0.05, 0.5, 0.95),
        ),
        "detection": DetectionSpecification(
            level=75, steps=5, threshold=0.1 + 0.2, threshold_source="held-out healthy scans",
            score=ScoreSpecification(kind="signed", smoothing_mm=6, erosion_mm=3),
        ),
        "training": {"seed": 3, "seconds": 1 / 3, "data": {"volumes": 2}},
    }  # fmt: skip
    return ModelSpecification(**{**parts, **changes})


def random_weights():
    generator = torch.Generator().manual_seed(0)
    return {
        "unet.weight": torch.randn(4, 3, 3, 3, generator=generator),
        "unet.bias": torch.randn(4, generator=generator).bfloat16(),
        "unet.half": torch.randn(2, 5, generator=generator).half(),
        "unet.count": torch.tensor(7),
    }


@pytest.fixture
def good(tmp_path):
    return save_checkpoint(tmp_path / "good.safetensors", specification(), random_weights())


def take_apart(path):
    """The header as a dict and the bytes of the tensors."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def put_together(path, header, data):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


def with_specification(path, change):
    """The checkpoint with its specification changed in place by ``change(dict)``."""
    header, data = take_apart(path)
    found = json.loads(header["__metadata__"]["specification"])
    found = change(found) or found
    header["__metadata__"]["specification"] = json.dumps(found)
    return put_together(path, header, data)


def refusal(path, read=load_checkpoint):
    """The sentence with which a file is refused."""
    with pytest.raises(CheckpointError) as caught:
        read(path)
    sentence = str(caught.value)
    assert sentence.startswith(f"{path}: ")
    assert sentence.endswith(".")
    assert "; " in sentence  # the fault; the mend
    assert sentence.isprintable()
    assert len(sentence) < len(str(path)) + 700
    return sentence


# What is written comes back


def test_round_trip_is_exact(good):
    checkpoint = load_checkpoint(good)
    weights = random_weights()
    assert checkpoint.weights.keys() == weights.keys()
    for name, tensor in weights.items():
        assert checkpoint.weights[name].dtype == tensor.dtype
        assert torch.equal(checkpoint.weights[name], tensor)
    digest = checkpoint.specification.weights_sha256
    assert checkpoint.specification == specification(weights_sha256=digest)
    assert digest == hashlib.sha256(take_apart(good)[1]).hexdigest()
    assert checkpoint.sha256 == hashlib.sha256(good.read_bytes()).hexdigest()
    assert checkpoint.path == good
    assert read_specification(str(good)) == checkpoint.specification


def test_saving_again_gives_the_same_bytes(good, tmp_path):
    checkpoint = load_checkpoint(good)
    again = save_checkpoint(
        tmp_path / "new" / "again.safetensors", checkpoint.specification, checkpoint.weights
    )
    assert again.read_bytes() == good.read_bytes()
    assert [p.name for p in again.parent.iterdir()] == [again.name]  # no temporary file is left


def test_a_trained_network_comes_back(tmp_path):
    from napari_addm.methods.loading import load_network
    from napari_addm.methods.networks import build_network

    model = specification()
    network = build_network(model.network).eval()
    path = save_checkpoint(tmp_path / "net.safetensors", model, network.state_dict())
    image = torch.randn(1, 1, 32, 48)
    level = torch.tensor([10])
    with torch.no_grad():
        expected = network(image, level)
        found = load_network(load_checkpoint(path))(image, level)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.skipif(os.name == "nt", reason="Windows lets files be written in read-only folders")
def test_a_checkpoint_that_cannot_be_written_is_a_refusal(tmp_path):
    (tmp_path / "file").write_text("in the way")
    sentence = refusal(
        tmp_path / "file" / "model.safetensors",
        lambda path: save_checkpoint(path, specification(), random_weights()),
    )
    assert "cannot be written" in sentence


def test_a_failed_write_keeps_the_old_file(good, monkeypatch):
    before = good.read_bytes()

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    sentence = refusal(good, lambda path: save_checkpoint(path, specification(), {}))
    assert "No space left on device" in sentence
    assert good.read_bytes() == before
    assert [p.name for p in good.parent.iterdir()] == [good.name]


# Foreign files, some of them hostile


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, flag):
        self.flag = flag

    def __reduce__(self):
        return (open, (str(self.flag), "w"))


def hostile_files(flag):
    """Contents that run code in whoever unpickles them."""
    for protocol in range(6):
        yield f"protocol {protocol}", pickle.dumps(Bomb(flag), protocol=protocol)
    for zipped in (True, False):
        stream = io.BytesIO()
        torch.save({"state_dict": Bomb(flag)}, stream, _use_new_zipfile_serialization=zipped)
        yield f"torch.save, zip: {zipped}", stream.getvalue()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("../../escaped.safetensors", "out of its folder")
    yield "zip slip", stream.getvalue()


@pytest.mark.parametrize("read", [load_checkpoint, read_specification])
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_pickles_and_archives_are_refused_and_never_run(tmp_path, ending, read):
    flag = tmp_path / "it ran"
    for kind, content in hostile_files(flag):
        path = tmp_path / f"model{ending}"
        path.write_bytes(content)
        sentence = refusal(path, read)
        assert "no checkpoint of napari-addm" in sentence, kind
        assert "choose a .safetensors file" in sentence, kind
        assert not flag.exists(), kind
        path.unlink()
    assert list(tmp_path.iterdir()) == []
    # The bomb does go off where someone lights it, or the test would prove nothing.
    pickle.loads(pickle.dumps(Bomb(flag))).close()
    assert flag.exists()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "an empty file"),
        (b"short", "not a safetensors file"),
        (b"<!DOCTYPE html><title>404", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"\x89HDF\r\n\x1a\n....", "an HDF5 file"),
        (b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", "a gzip file"),
        (b"PK\x03\x04\x14\x00\x00\x00", "a zip archive"),
        (b"\xff" * 64, "not a safetensors file"),
    ],
)
def test_a_refusal_says_what_the_file_is(tmp_path, content, kind):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert kind in refusal(path)


def test_header_lengths_that_look_like_a_signature_are_no_fault(good):
    """A header of 640 bytes, or of 19280, begins as a pickle or a zip archive does."""
    header, data = take_apart(good)
    for length, beginning in ((0x4B50, b"PK"), (0x10280, b"\x80\x02")):
        raw = json.dumps(header).encode().ljust(length)
        assert put_together(good, raw, data).read_bytes().startswith(beginning)
        assert load_checkpoint(good).specification.name == "Tiny, for tests"


def test_missing_files_and_folders_are_refused(tmp_path):
    assert "No such file" in refusal(tmp_path / "none.safetensors")
    assert "not a file" in refusal(tmp_path)


# Damaged files


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_cut_file_is_refused_wherever_it_is_cut(good, data):
    content = good.read_bytes()
    cut = good.with_name("cut.safetensors")
    cut.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    refusal(cut)
    refusal(cut, read_specification)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_changed_byte_is_refused_or_leaves_the_weights_alone(good, data):
    """What the hash does not cover are names and the values of the specification."""
    content = bytearray(good.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    changed = good.with_name("changed.safetensors")
    changed.write_bytes(content)
    try:
        checkpoint = load_checkpoint(changed)
    except CheckpointError:
        return
    intact = load_checkpoint(good)
    found = sorted(checkpoint.weights.values(), key=torch.numel)
    for tensor, other in zip(found, sorted(intact.weights.values(), key=torch.numel), strict=True):
        assert tensor.numel() == other.numel()
        assert tensor.isfinite().all()


def test_a_file_that_goes_on_is_refused(good):
    good.write_bytes(good.read_bytes() + b"\0")
    assert "the file is cut short or damaged" in refusal(good)


def test_changed_weights_are_refused(good):
    content = bytearray(good.read_bytes())
    content[-1] ^= 1
    good.write_bytes(content)
    assert "do not have the hash" in refusal(good)
    assert read_specification(good).name == "Tiny, for tests"  # the header alone is sound


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_no_numbers_are_refused(tmp_path, value, dtype):
    weights = random_weights()
    weights["unet.bad"] = torch.tensor([1.0, value], dtype=dtype)
    path = save_checkpoint(tmp_path / "nan.safetensors", specification(), weights)
    assert "the weights unet.bad hold NaN or infinity" in refusal(path)


def test_a_huge_header_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "huge.safetensors"
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    assert "not a safetensors file" in refusal(path)
    path.write_bytes(struct.pack("<Q", 2**20) + b"{}")
    assert "cut short within its header" in refusal(path)


def test_a_huge_file_is_refused_before_it_is_read(good):
    os.truncate(good, 5 * 2**30)  # a sparse file: nothing is written
    assert "larger than 4 GiB" in refusal(good)


def entry(dtype="F32", shape=(2, 2), data_offsets=(0, 16)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(data_offsets)}


@pytest.mark.parametrize(
    ("tensors", "fault"),
    [
        ({"a": entry(shape=[2**20, 2**20], data_offsets=[0, 2**42])}, "4398046511104 bytes"),
        ({"a": entry(shape=[2**20, 2**20])}, "shape and place of a differ"),
        ({"a": entry(shape=[2**60])}, "a has no shape"),
        ({"a": entry(shape=[-2, -2])}, "a has no shape"),
        ({"a": entry(shape=[2.0, 2])}, "a has no shape"),
        ({"a": entry(shape=[True, 4])}, "a has no shape"),
        ({"a": entry(shape=[1] * 100_000)}, "a has no shape"),
        ({"a": entry(data_offsets=[16])}, "no place"),
        ({"a": entry(data_offsets=[16, 0])}, "differ in size"),
        ({"a": entry(data_offsets=[4, 20])}, "does not follow"),
        ({"a": entry(), "b": entry()}, "b does not follow"),
        ({"a": entry(dtype="F8_E4M3")}, "type F8_E4M3"),
        ({"a": entry(dtype=["F32"])}, "has the type"),
        ({"a": entry() | {"code": "x"}}, "the entry of a"),
        ({"a": [1, 2]}, "the entry of a"),
        ({"a\n\x1b[31m": entry()}, r"a tensor is named a\n\x1b[31m"),
        ({"x" * 5000: entry()}, "a tensor is named"),
    ],
)
def test_tensors_that_contradict_themselves_are_refused(good, tensors, fault):
    metadata = take_apart(good)[0]["__metadata__"]
    put_together(good, {"__metadata__": metadata, **tensors}, bytes(16))
    assert fault in refusal(good)
    assert fault in refusal(good, read_specification)


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        (b"{not json", "Expecting property name"),
        (b"not json", "not a safetensors file"),
        (b"  {}", "not a safetensors file"),
        (b'{"a": "\xff\xfe"}', "utf-8"),
        ('{"a": "b"}'.encode("utf-16-le"), "Expecting property name"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"__metadata__": {"n": ' + b"9" * 10_000 + b"}}", "limit"),
        (b'{"__metadata__": {"n": NaN}}', "NaN is no JSON"),
        (b"[1, 2]", "not a safetensors file"),
        (b'{"__metadata__": []}', "__metadata__ is not an object"),
        (b'{"__metadata__": {}, "__metadata__": {}}', "__metadata__ stands there twice"),
        (b"{}", "no model specification"),
        (b'{"__metadata__": {"specification": {"name": "x"}}}', "no model specification"),
        (b'{"__metadata__": {"specification": "{"}}', "specification is not JSON"),
        (b'{"__metadata__": {"specification": "[]"}}', "specification is not valid (the whole"),
        (b'{"__metadata__": {"specification": "{}", "run": "me"}}', "unknown keys in the header"),
    ],
)
def test_broken_headers_are_refused(tmp_path, header, fault):
    path = put_together(tmp_path / "model.safetensors", header, b"")
    assert fault in refusal(path)
    assert fault in refusal(path, read_specification)


def test_what_the_safetensors_library_refuses_is_a_refusal_too(good):
    header, data = take_apart(good)
    header["__metadata__"]["format"] = 3
    put_together(good, header, data)
    assert "the tensors cannot be read" in refusal(good)


# Specifications that are not ours


def test_unknown_keys_are_listed(good):
    def change(found):
        found["plugin"] = "os.system"
        found["network"]["_target_"] = "os.system"
        found["detection"]["score"]["sigma\x1b"] = 3

    sentence = refusal(with_specification(good, change), read_specification)
    for name in ("plugin", "network._target_", "detection.score.sigma\\x1b"):
        assert f"{name} is unknown" in sentence


def test_missing_keys_are_listed(good):
    def change(found):
        del found["name"], found["diffusion"]["noise"], found["preparation"]

    sentence = refusal(with_specification(good, change), read_specification)
    for name in ("name", "diffusion.noise", "preparation"):
        assert f"{name} is missing" in sentence


def test_at_most_a_handful_of_faults_is_listed(good):
    sentence = refusal(
        with_specification(good, lambda found: found.update({f"x{n}": n for n in range(5000)}))
    )
    assert sentence.count("is unknown") == 5
    assert "4995 more" in sentence


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("name", 3),
        ("name", "x" * 2000),
        ("method", "other"),
        ("schema_version", 0),
        ("schema_version", "1"),
        ("weights_sha256", "abc"),
        ("training", []),
        ("network.kind", "os.system"),
        ("network.pack", 3),
        ("network.channels", []),
        ("network.channels", [4, 8, 8]),
        ("network.channels", [4, 2**20]),
        ("network.channels", [4, 10]),
        ("network.res_blocks", [1, 1000]),
        ("network.attention", [0, 1]),
        ("network.head_channels", 3),
        ("diffusion.length", 20),
        ("diffusion.length", 10**9),
        ("diffusion.length", True),
        ("diffusion.noise", "pink"),
        ("diffusion.betas", "cosine"),
        ("preparation.size", [30, 48]),
        ("preparation.size", [2**20, 2**20]),
        ("preparation.spacing_mm", [1e-9, 1.5, 1.5]),
        ("preparation.spacing_mm", [3, 1.5]),
        ("preparation.percentiles", [1, 99]),
        ("preparation.percentiles", [50, 50, 99]),
        ("preparation.landmarks", [0.5, 0.4, 0.9]),
        ("detection.level", 301),
        ("detection.steps", 76),
        ("detection.eta", 1.5),
        ("detection.draws", 10**6),
        ("detection.threshold", "0.5"),
        ("detection.threshold", None),
        ("detection.score.kind", "eval"),
        ("detection.score.smoothing_mm", -1),
    ],
)
def test_wrong_values_are_refused_by_name(good, place, value):
    *parts, key = place.split(".")

    def change(found):
        for part in parts:
            found = found[part]
        assert json.dumps(found[key]) != json.dumps(value)
        found[key] = value

    sentence = refusal(with_specification(good, change), read_specification)
    assert "is not valid" in sentence
    assert place in sentence or key in sentence


def test_a_number_that_is_no_number_is_refused(good):
    header, data = take_apart(good)
    text = header["__metadata__"]["specification"]
    for constant in ("NaN", "Infinity", "1e999"):
        changed = text.replace("0.30000000000000004", constant)
        assert changed != text
        header["__metadata__"]["specification"] = changed
        refusal(put_together(good, header, data), read_specification)


def test_a_key_twice_is_refused(good):
    header, data = take_apart(good)
    text = header["__metadata__"]["specification"]
    header["__metadata__"]["specification"] = text.replace("{", '{"name": "another", ', 1)
    sentence = refusal(put_together(good, header, data), read_specification)
    assert "the key name stands there twice" in sentence


@pytest.mark.parametrize("version", [2, 10**30])
def test_a_newer_specification_asks_for_an_update(good, version):
    def change(found):
        found["schema_version"] = version
        found["from_the_future"] = True

    sentence = refusal(with_specification(good, change), read_specification)
    assert f"version {version}, this program knows 1; update napari-addm" in sentence


def test_weights_that_do_not_fit_the_network_are_listed(tmp_path):
    from napari_addm.methods.loading import load_network
    from napari_addm.methods.networks import build_network

    model = specification()
    weights = build_network(model.network).state_dict()
    names = sorted(weights)
    weights[names[0]] = torch.zeros(3, 1)
    del weights[names[1]]
    weights["unet.extra"] = torch.zeros(1)
    path = save_checkpoint(tmp_path / "odd.safetensors", model, weights)
    sentence = refusal(path, lambda path: load_network(load_checkpoint(path)))
    assert f"{names[0]} is (3, 1) instead of" in sentence
    assert f"{names[1]} is missing" in sentence
    assert "unet.extra is unknown" in sentence

    path = save_checkpoint(tmp_path / "none.safetensors", model, {})
    sentence = refusal(path, lambda path: load_network(load_checkpoint(path)))
    assert sentence.count("is missing") == 5
    assert f"and {len(names) - 5} more" in sentence


# --- false alarms ---------------------------------------------------------------------------


def test_false_alarms_are_interpolated_and_bounded():
    alarms = FalseAlarmSpecification(
        thresholds=(0.1, 0.2, 0.4), mean_ml=(50.0, 10.0, 0.0), minimum_ml=0.5, subjects=6
    )
    assert alarms.promised_ml(0.1) == 50
    assert alarms.promised_ml(0.15) == pytest.approx(30)
    assert alarms.promised_ml(0.3) == pytest.approx(5)
    assert alarms.promised_ml(0.4) == 0
    assert (alarms.promised_ml(0.0), alarms.promised_ml(1.0)) == (50, 0)
    assert alarms.in_words(0.15) == "about 30 mL"
    assert alarms.in_words(0.3) == "about 5.0 mL"
    assert alarms.in_words(0.05) == "more than 50 mL"
    assert alarms.in_words(0.41) == "less than 0.1 mL"
    assert alarms.brains == "a healthy brain"


@pytest.mark.parametrize(
    ("subjects", "brains"), [(5, "5 of 6"), (8, "8 of 9"), (9, "9 of 10"), (31, "9 of 10")]
)
def test_a_bound_is_promised_instead_of_the_mean(subjects, brains):
    alarms = FalseAlarmSpecification(
        thresholds=(0.1, 0.2, 0.4),
        mean_ml=(50.0, 10.0, 0.0),
        bound_ml=(80.0, 20.0, 1.0),
        minimum_ml=0.5,
        subjects=subjects,
    )
    assert [alarms.promised_ml(t) for t in (0.05, 0.1, 0.199, 0.2, 0.5)] == [80, 80, 80, 20, 1]
    assert (alarms.threshold_for(50.0), alarms.threshold_for(20.0)) == (0.2, 0.2)
    assert alarms.threshold_for(0.5) is None
    assert (alarms.in_words(0.4), alarms.brains) == ("at most 1.0 mL", f"{brains} healthy brains")
    up = alarms.replace(bound_ml=(10.49, 0.549, 0.51))
    assert [up.in_words(t) for t in (0.1, 0.2, 0.4)] == [
        "at most 11 mL",
        "at most 0.6 mL",
        "at most 0.6 mL",
    ]
    assert up.replace(scanners={"a": 30, "b": 4}).brains == "4 of 5 healthy brains"
    with pytest.raises(ValueError, match="bound_ml must not rise"):
        alarms.replace(bound_ml=(1.0, 2.0, 0.0))


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), min_size=1, max_size=6),
    st.floats(0, 150),
    st.floats(0, 3),
)
def test_a_promise_gives_the_lowest_threshold_that_keeps_it(steps, promised, other):
    rises, falls = np.array(steps).T
    alarms = FalseAlarmSpecification(
        thresholds=tuple(np.cumsum(rises / 100).tolist()),
        mean_ml=tuple(np.cumsum(falls[::-1])[::-1].astype(float).tolist()),
        minimum_ml=0.5,
        subjects=6,
    )
    threshold = alarms.threshold_for(promised)
    if threshold is None:
        assert alarms.mean_ml[-1] > promised
        return
    assert alarms.thresholds[0] <= threshold <= alarms.thresholds[-1]
    assert alarms.promised_ml(threshold) <= promised + 1e-9
    if alarms.thresholds[0] <= other < threshold - 1e-9:
        assert alarms.promised_ml(other) > promised - 1e-9


@pytest.mark.parametrize(
    ("thresholds", "volumes"), [((0.2, 0.1), (2.0, 1.0)), ((0.1, 0.2), (1.0, 2.0)), ((0.1,), ())]
)
def test_false_alarms_have_to_fall_as_the_threshold_rises(thresholds, volumes):
    with pytest.raises(ValueError, match=r"rise|number|at least"):
        FalseAlarmSpecification(thresholds=thresholds, mean_ml=volumes, minimum_ml=0.5, subjects=6)


def test_a_method_comes_with_what_it_needs(tiny_checkpoint):
    known = read_specification(tiny_checkpoint)
    for change, words in (
        ({"method": "spatial_ae"}, "does not work with a diffusion_unet"),
        ({"diffusion": None}, "needs diffusion"),
        ({"method": "denoising_ae"}, "has neither diffusion"),
    ):
        with pytest.raises(ValueError, match=words):
            known.replace(**change)


HEADERS = json.loads(Path(__file__).with_name("headers.json").read_text())
"""Specifications as the first published version wrote them: every method, every preset."""


@pytest.mark.parametrize("name", HEADERS)
def test_headers_of_every_method_stay_readable_and_are_written_alike(name, good):
    header, data = take_apart(good)
    header["__metadata__"]["specification"] = HEADERS[name]
    found = read_specification(put_together(good, header, data))
    assert f"{found.method} {found.training['preset']}" == name
    assert type(found.network) is METHODS[found.method].network
    # what was called coarse is a pyramid of grids, and noise has had a power since
    today = re.sub('"noise":"(.*?)"', r'"noise":"\1","noise_sd":1.0', HEADERS[name])
    expected = json.loads(today.replace('"coarse"', '"pyramid"'))
    expected["detection"]["healthy_norm"] = None
    if expected["detection"]["false_alarms"] is not None:
        expected["detection"]["false_alarms"] |= {"bound_ml": None, "scanners": {}}
    assert found.model_dump(mode="json") == expected


def test_the_first_checkpoints_name_no_method(good):
    def change(found):
        del found["method"]

    assert read_specification(with_specification(good, change)).method == "addm"


def test_files_have_their_own_names_for_fields(good):
    def change(found):
        found["network"]["unshuffle"] = found["network"].pop("pack")

    sentence = refusal(with_specification(good, change), read_specification)
    assert "network.pack is missing" in sentence
    assert "network.unshuffle is unknown" in sentence


def test_a_network_of_another_method_is_refused(good):
    sentence = refusal(with_specification(good, lambda found: found.update(method="f_anogan")))
    assert "network.latent is missing" in sentence
