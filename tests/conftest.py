"""Shared material: phantoms, a manifest made of them, and a whole Stable Diffusion a few thousand weights small."""

import os
import tempfile

import hub_server

# The only Hub that a test can reach is one on loopback, and it knows no token of whoever runs the tests.
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{hub_server.PORT}"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="dermgen-tests-")
os.environ["HF_HUB_DISABLE_XET"] = "1"  # the storage that the loopback Hub does not have
os.environ["HF_TOKEN"] = ""
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# One thread each: the suite runs on all cores at once, and threads that wait for each other slow small networks down.
os.environ["OMP_NUM_THREADS"] = "1"

import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from diffusers import AutoencoderKL

from dermgen.data import manifest
from dermgen.data.phantom import PhantomConfig, write_phantoms
from dermgen.data.prepare import PrepareConfig, prepare
from dermgen.stable_diffusion.pipeline import quiet_libraries
from dermgen.stable_diffusion.small import build_pipeline

ROOT = Path(__file__).parent.parent

# Settings of a classifier that trains in a second.
SMALL_CLASSIFIER = {
    "from_scratch": True,
    "resolution": 32,
    "width": 32,
    "layers": 1,
    "train_batch_size": 8,
    "report_to": "none",
}


@pytest.fixture(autouse=True)
def _fresh_accelerator(tmp_path, monkeypatch):
    """Each test starts without the process-wide state of accelerate, and with a cache of its own."""
    monkeypatch.setenv("DERMGEN_CACHE", str(tmp_path / "cache"))
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def pytest_configure():
    quiet_libraries()


def pytest_collection_modifyitems(items):
    """Files with slow tests first, those of few tests before others, so that no core waits for one long test at the end."""
    sizes = Counter(item.path for item in items)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, sizes[item.path] if item.path in slow else 0))


@pytest.fixture(scope="session")
def hub_on_loopback():
    server = hub_server.Hub(hub_server.PORT)
    yield server
    server.close()


@pytest.fixture
def hub(hub_on_loopback, monkeypatch) -> hub_server.Hub:
    """An empty Hub on loopback that this process can reach, with a token that may write."""
    hub_on_loopback.reset()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("diffusers.loaders.lora_base.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", hub_server.WRITE)
    return hub_on_loopback


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    """28 lesions in the HAM10000 layout, 96 pixels high."""
    return write_phantoms(
        PhantomConfig(output_dir=str(tmp_path_factory.mktemp("phantoms") / "raw"), num_lesions=28, height=96)
    )


def prepared(raw: Path, folder: Path, **settings) -> Path:
    """Phantoms, prepared at 32 pixels."""
    return prepare(
        PrepareConfig(
            source="ham10000", data_dir=str(raw), output_dir=str(folder), resolution=32, num_workers=1, **settings
        )
    )


@pytest.fixture(scope="session")
def manifest_dir(phantoms, tmp_path_factory) -> Path:
    """The phantoms, prepared at 32 pixels."""
    return prepared(phantoms, tmp_path_factory.mktemp("manifest") / "m")


@pytest.fixture(scope="session")
def tested_dir(tmp_path_factory) -> Path:
    """Phantoms with as many held-out images of each class as scores need."""
    raw = write_phantoms(
        PhantomConfig(output_dir=str(tmp_path_factory.mktemp("many") / "raw"), num_lesions=84, height=64)
    )
    return prepared(raw, tmp_path_factory.mktemp("tested") / "m", split=[0.4, 0.1, 0.5])


@pytest.fixture(scope="session")
def synthetic_dir(tmp_path_factory) -> Path:
    """Other phantoms, in the place of generated images."""
    raw = write_phantoms(
        PhantomConfig(output_dir=str(tmp_path_factory.mktemp("other") / "raw"), num_lesions=28, height=96, seed=9)
    )
    folder = prepared(raw, tmp_path_factory.mktemp("synthetic") / "m")
    table = manifest.read(folder).assign(synthetic="true", split="", lesion_id="", patient_id="")
    names = {name: f"syn_{name}" for name in table["image_id"]}
    manifest.write(table.assign(image_id=table["image_id"].map(names)), folder)
    return folder


@pytest.fixture(scope="session")
def base_dir(manifest_dir, tmp_path_factory) -> Path:
    """An untrained Stable Diffusion for 32 x 32 pixels, saved as a pipeline folder."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        sample_size=32,
        block_out_channels=[8, 16],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.5,
    )
    captions = list(manifest.read(manifest_dir)["caption"])
    pipeline = build_pipeline(vae, captions, sample_size=16, channels=(16, 32), text_width=32)
    folder = tmp_path_factory.mktemp("base") / "sd"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def world(tested_dir, tmp_path_factory):
    """A manifest, a run trained on it, the images that it generated, and their results: see `world.World`."""
    from world import build

    return build(tested_dir, tmp_path_factory.mktemp("world"))


def ham10000() -> Path | None:
    for place in (os.environ.get("DERMGEN_HAM10000"), Path(__file__).parents[2] / "shared" / "data" / "ham10000"):
        if place and Path(place).is_dir():
            return Path(place)
    return None


needs_ham10000 = pytest.mark.skipif(ham10000() is None, reason="no HAM10000 here; set DERMGEN_HAM10000 to its folder")


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def browser_page():
    """A page in headless Chromium, and every address that it asks."""
    api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        yield page, asked
        browser.close()
