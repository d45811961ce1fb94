"""A whole small Stable Diffusion from nothing: an autoencoder, then DreamBooth's own training on all captions.

What a GPU and a download give elsewhere, minutes on a CPU give here at 64 pixels: a base model for demos and tests, and
for researchers who may not start from pictures of the internet.
"""

from pathlib import Path
from typing import Any

from diffusers import AutoencoderTiny, StableDiffusionPipeline

from dermgen.data import captions, manifest, trained_on
from dermgen.data.phantom import SITES
from dermgen.job import claim_folder
from dermgen.labels import TAXONOMIES, Taxonomy, from_labels
from dermgen.methods import autoencoder, dreambooth
from dermgen.settings.autoencoder import AutoencoderConfig
from dermgen.settings.dreambooth import DreamboothConfig
from dermgen.settings.tiny import TinyConfig
from dermgen.stable_diffusion.pipeline import load_pipeline
from dermgen.stable_diffusion.small import build_pipeline


def train_tiny(config: TinyConfig) -> Path:
    """Train both stages, or resume them, and save the pipeline in `output_dir`.

    Raises:
        InputError: for an unknown class, a missing manifest, or the folder of another job.
    """
    folder = Path(config.output_dir)
    claim_folder(folder, config)
    stages = folder / "stages"
    shared = {
        "data_dir": config.data_dir,
        "resolution": config.resolution,
        "seed": config.seed,
        "exclude_classes": config.exclude_classes,
        "mixed_precision": config.mixed_precision,
        "report_to": config.report_to,
        "checkpoints_total_limit": 1,
        "lr_scheduler": "cosine",
        "lr_warmup_steps": 20,
    }
    if not (stages / "initial" / "model_index.json").exists():
        autoencoder.train(_autoencoder_settings(config, stages / "autoencoder", shared))
        _initial_pipeline(config, stages / "autoencoder" / "vae").save_pretrained(stages / "initial")
    trained_on.pass_on(stages / "autoencoder", stages / "initial")
    dreambooth.train(_text_to_image_settings(config, stages, shared))
    load_pipeline(str(stages / "text_to_image")).save_pretrained(folder)
    trained_on.pass_on(stages / "text_to_image", folder)
    print(f"The pipeline is in {folder}, its samples in {stages / 'text_to_image' / 'samples'}")
    return folder


def _autoencoder_settings(config: TinyConfig, folder: Path, shared: dict[str, Any]) -> AutoencoderConfig:
    return AutoencoderConfig(
        output_dir=str(folder),
        channels=config.autoencoder_channels,
        downsampling=config.downsampling,
        latent_channels=config.latent_channels,
        train_batch_size=config.autoencoder_batch_size,
        max_train_steps=config.autoencoder_steps,
        learning_rate=1e-3,
        **shared,
    )


def _initial_pipeline(config: TinyConfig, vae_folder: Path) -> StableDiffusionPipeline:
    return build_pipeline(
        AutoencoderTiny.from_pretrained(vae_folder),
        _vocabulary(config),
        sample_size=config.resolution // config.downsampling,
        channels=tuple(config.unet_channels or (64, 128, 192)),
        text_width=config.text_width,
        seed=config.seed,
    )


def _text_to_image_settings(config: TinyConfig, stages: Path, shared: dict[str, Any]) -> DreamboothConfig:
    table = manifest.read(config.data_dir)
    shown = [c for c in dict.fromkeys(sorted(table["dx"])) if c and c not in (config.exclude_classes or ())]
    return DreamboothConfig(
        output_dir=str(stages / "text_to_image"),
        pretrained_model_name_or_path=str(stages / "initial"),
        train_text_encoder=True,
        max_images_per_class=config.max_images_per_class,
        train_batch_size=config.unet_batch_size,
        max_train_steps=config.unet_steps,
        learning_rate=config.unet_learning_rate,
        ema_decay=0.995,
        caption_dropout=0.1,
        random_flip=True,
        validation_prompt=[_short_caption(table, c, from_labels(table["dx"])) for c in shown],
        validation_guidance_scale=3.0,
        validation_base_rows=False,  # the base model is untrained: its images are noise
        validation_steps=max(1, config.unet_steps // 3),
        **shared,
    )


def _vocabulary(config: TinyConfig) -> list[str]:
    """Texts whose words the tokenizer should know whole: the captions, and all that a caption can say of a lesion."""
    names = [name for t in TAXONOMIES.values() for lesion in t.classes for name in captions.class_names(lesion)]
    attributes = [
        captions.fill(captions.DEFAULT_TEMPLATE, {"localization": site, "age": age, "sex": sex})
        for site in SITES
        for sex in ("female", "male")
        for age in (10, 20, 30, 40, 50, 60, 70, 80, 90)
    ]
    return [*manifest.read(config.data_dir)["caption"], *names * 5, *attributes]


def _short_caption(table, code: str, taxonomy: Taxonomy) -> str:
    """How the captions call the class by its own name, up to their first comma."""
    first_parts = table.loc[table["dx"] == code, "caption"].str.split(", ").str[0]
    named = [text for text in first_parts if taxonomy[code].name in text]
    return (named or list(first_parts))[0]
