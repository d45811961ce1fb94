"""What a fine-tuning takes is estimated as it is measured, and a recipe says what is estimated of it."""

import inspect
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode

from dermgen.config import parse
from dermgen.doctor import doctor
from dermgen.methods.dreambooth import peak_memory
from dermgen.settings.doctor import DoctorConfig
from dermgen.settings.dreambooth import DreamboothConfig, DreamboothLoraConfig
from dermgen.stable_diffusion import memory
from dermgen.stable_diffusion.base_model import BaseModel
from dermgen.stable_diffusion.files import part_shapes
from dermgen.stable_diffusion.inputs import cache_latents
from dermgen.stable_diffusion.small import build_pipeline
from dermgen.stable_diffusion.weights import FullWeights

# Trains twice, first with one small image, so that what libraries take does not count; prints the largest growth.
MEASURE = """
import dataclasses, json, re, sys
from pathlib import Path
from dermgen.methods import dreambooth
from dermgen.settings import dreambooth as settings

def status(name):
    return int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

kind, values = sys.argv[1], json.loads(sys.argv[2])
config = getattr(settings, kind)(**values)
warm = dataclasses.replace(config, train_batch_size=1, resolution=32, output_dir=config.output_dir + "_warm")
dreambooth.train(warm)
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, the peak
dreambooth.train(config)
print(json.dumps(status("VmHWM") - before))
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """An untrained Stable Diffusion of 30 million weights for 64 pixels, and four images."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        sample_size=64,
        block_out_channels=[16, 32, 32],
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
    )
    folder = tmp_path_factory.mktemp("memory")
    build_pipeline(vae, ["a lesion"], sample_size=16, channels=(64, 128, 256), text_width=64).save_pretrained(
        folder / "base"
    )
    (folder / "images").mkdir()
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 255, (128, 128, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
    return folder


CASES = {
    "all weights": (DreamboothConfig, {}),
    "checkpointed gradients and a moving average": (
        DreamboothConfig,
        {"gradient_checkpointing": True, "ema_decay": 0.9},
    ),
    "LoRA": (DreamboothLoraConfig, {"rank": 8}),
}


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="Linux alone tells a process its peak")
@pytest.mark.parametrize("name", CASES)
def test_the_estimate_is_within_a_fifth_of_the_measured_peak(name, base, tmp_path):
    kind, changes = CASES[name]
    values = {
        "pretrained_model_name_or_path": str(base / "base"), "instance_data_dir": str(base / "images"),
        "instance_prompt": "a lesion", "output_dir": str(tmp_path / "run"), "cache_dir": str(tmp_path / "cache"),
        "resolution": 128, "train_batch_size": 32, "max_train_steps": 2, "report_to": "none", **changes,
    }  # fmt: skip
    expected = peak_memory(kind(**values), "no", gpu=False)
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", MEASURE, kind.__name__, json.dumps(values)]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert json.loads(printed.splitlines()[-1]) == pytest.approx(expected.peak, rel=0.2)


ROOT = Path(__file__).parents[2]
PRESETS = sorted((ROOT / "train_scripts" / "configs").glob("dreambooth*sd15*.yaml"))


def preset(path):
    kind = DreamboothLoraConfig if "lora" in path.stem else DreamboothConfig
    return parse(kind, ["--config", str(path)])


def said(path):
    """The line of a recipe on its memory, and the GB of the card that it needs."""
    text = path.read_text()
    return re.search(r"^# Memory: (.*), by estimate\.$", text, re.M)[1], int(re.search(r"a GPU with (\d+) GB", text)[1])


@pytest.mark.slow
@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_a_recipe_says_the_memory_that_is_estimated_and_fits_its_card(path):
    found = peak_memory(preset(path), "bf16", gpu=True)
    line, card = said(path)
    assert line == str(found)
    assert found.peak <= memory.USABLE * card * 2**30


@pytest.mark.slow
def test_the_doctor_repeats_what_a_recipe_says_of_its_memory(capsys):
    path = ROOT / "train_scripts" / "configs" / "dreambooth_lora_sd15.yaml"
    doctor(DoctorConfig(recipe=str(path)))
    assert f"memory     {said(path)[0]} by estimate, with mixed_precision bf16" in capsys.readouterr().out


def test_there_is_a_recipe_for_every_usual_card_and_for_all_weights():
    assert sorted((said(path)[1], "lora" in path.stem) for path in PRESETS) == [
        (8, True), (12, True), (16, False), (16, True), (24, False), (24, True),
    ]  # fmt: skip


def test_the_faster_recipes_of_a_larger_card_train_on_the_same_images():
    """The images of a step, and all that is random about them, depend on their number alone."""
    small, *larger = (
        vars(preset(p))
        for p in PRESETS
        if p.stem in ("dreambooth_lora_sd15", *(f"dreambooth_lora_sd15_{n}gb" for n in (12, 16)))
    )
    assert len(larger) == 2
    free = {"output_dir", "train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing"}
    for settings in larger:
        assert {k: v for k, v in settings.items() if k not in free} == {k: v for k, v in small.items() if k not in free}
        assert settings["train_batch_size"] * settings["gradient_accumulation_steps"] == 4


def test_the_networks_of_stable_diffusion_1_have_its_numbers_of_weights():
    """UNet, text encoder and autoencoder of the published checkpoint."""
    assert memory.count_weights(memory.STABLE_DIFFUSION_1) == 859_520_964 + 123_060_480 + 83_653_863


def test_latents_are_encoded_as_many_at_a_time_as_the_estimate_says():
    assert inspect.signature(cache_latents).parameters["batch_size"].default == memory.ENCODED


def test_the_largest_sum_of_living_tensors_is_counted_and_shared_memory_once():
    with FakeTensorMode(), memory._Held() as held:
        kept = torch.empty(1000)  # 4,000 bytes
        view = kept.view(10, 100)
        passing = torch.empty(500) + 1  # 2,000 bytes twice
        del passing
        copied = view.t().contiguous()
    assert held.now == 8000
    assert held.peak == 8000
    del copied, view, kept
    assert held.now == 0


def test_an_estimate_has_each_byte_of_a_trained_weight(base):
    """Between two steps: the weight, two moments and the average; in the update also the gradient and the roots."""
    values = {
        "pretrained_model_name_or_path": str(base / "base"), "instance_data_dir": "x", "instance_prompt": "x",
        "resolution": 32, "train_batch_size": 1,
    }  # fmt: skip
    networks = memory.architecture(BaseModel(str(base / "base")))
    unet = sum(math.prod(shape) for shape in part_shapes(base / "base", "unet").values())
    frozen = 4 * (memory.count_weights(networks) - unet)
    steps = [
        peak_memory(DreamboothConfig(**values, **more), "no", gpu=gpu).step - frozen
        for more, gpu in (({}, True), ({"ema_decay": 0.9}, True))
    ]
    assert steps == [(4 + 4 + 8 + 4) * unet, (4 + 4 + 8 + 4 + 4) * unet]


def test_a_recipe_that_takes_more_than_the_machine_has_is_to_be_fixed(base, monkeypatch):
    config = DreamboothConfig(
        pretrained_model_name_or_path=str(base / "base"), instance_data_dir="x", instance_prompt="x", resolution=32
    )
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(total=2**20))
    (finding,) = memory.findings(config, BaseModel(str(base / "base")), FullWeights(False))
    assert finding.state == "FIX"
    assert "of 1.0 MiB: take dreambooth_lora.py" in finding.text
