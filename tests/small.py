"""Small settings of every method that is trained from scratch, and manifests of plain colours."""

from pathlib import Path

import numpy as np
from PIL import Image

from dermgen.data import manifest
from dermgen.settings.methods import METHODS

COMMON = {
    "train_batch_size": 4,
    "report_to": "none",
    "validation_steps": None,
    "num_sample_images": 8,
    "logging_steps": 1,
}
SMALL = {
    "ddpm": {"resolution": 16, "channels": [32, 32], "layers_per_block": 1, "attention_resolutions": [8],
             "num_train_timesteps": 100, "validation_inference_steps": 2, "class_conditional": True},
    "vae": {"resolution": 16, "channels": [8, 16], "latent_dim": 8, "class_conditional": True},
    "dcgan": {"resolution": 16, "generator_channels": 8, "discriminator_channels": 8, "latent_dim": 8,
              "class_conditional": True},
    "stylegan2": {"resolution": 16, "latent_dim": 8, "mapping_layers": 2, "channel_base": 128, "channel_max": 8,
                  "class_conditional": True, "r1_interval": 2, "path_length_interval": 2, "ada_target": 0.6,
                  "ada_kimg": 1.0},
    "cyclegan": {"resolution": 32, "generator_channels": 4, "discriminator_channels": 4, "residual_blocks": 1,
                 "class_a": "nv", "class_b": "mel", "pool_size": 3},
}  # fmt: skip


def config(name: str, data_dir: Path, folder: Path, **changes):
    """The method's config with its small settings."""
    return METHODS[name].settings(
        **{**COMMON, **SMALL[name], "data_dir": str(data_dir), "output_dir": str(folder), **changes}
    )


def train(name: str, data_dir: Path, folder: Path, **changes):
    """Train the method with its small settings."""
    return METHODS[name].load().train(config(name, data_dir, folder, **changes))


def colours(folder: Path, size: int = 16) -> Path:
    """A manifest of two classes: reddish and bluish images of uneven brightness, 96 in all."""
    rng, rows = np.random.default_rng(0), []
    (folder / "images").mkdir(parents=True)
    for i in range(96):
        dx = ("blue", "red")[i % 2]
        strong, weak = rng.uniform(150, 220), rng.uniform(20, 90)
        colour = [weak, 60, strong] if dx == "blue" else [strong, 60, weak]
        pixels = np.array(colour) + rng.normal(0, 8, (size, size, 3))
        name = f"images/{i}.png"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name)
        rows.append({"file_name": name, "image_id": f"c{i}", "dx": dx, "lesion_id": f"l{i}",
                     "split": "train" if i < 64 else "val" if i < 80 else "test", "synthetic": "false"})  # fmt: skip
    import pandas as pd

    manifest.write(pd.DataFrame(rows), folder)
    return folder
