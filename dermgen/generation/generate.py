"""`dermgen generate`: a run or a Hub model, prompts or classes, to a manifest folder of synthetic images."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from PIL import Image
from tqdm.auto import tqdm

from dermgen import __version__, installation, runs, watermark
from dermgen.config import InputError, whole_file
from dermgen.data import manifest
from dermgen.data.cache import hash_file, key_of
from dermgen.data.generated import Generated
from dermgen.data.names import file_stem, file_stems
from dermgen.data.origins import combine
from dermgen.data.sheets import contact_sheet
from dermgen.data.subsets import subset
from dermgen.data.trained_on import TrainedOn
from dermgen.generation.from_scratch import FromScratchModel
from dermgen.generation.request import InitImage
from dermgen.generation.stable_diffusion import StableDiffusionModel
from dermgen.sampling import ImageGenerator, Request, generate_missing, save_png
from dermgen.settings.generate import GenerateConfig
from dermgen.stable_diffusion.inputs import cut_warning
from dermgen.training.processes import claim_together

# The part that the model reads of a prompt that is too long for it.
CUT_COLUMNS = ("prompt_read", "negative_prompt_read")


class Model(Protocol):
    """A model to generate from.

    Attributes:
        options: those of `dermgen generate` that it takes; others are refused.
        init_images: the images that it starts from, or translates.
    """

    options: frozenset[str]
    init_images: Sequence[InitImage]

    def plan(self) -> list[dict]:
        """One row per image: its `label` and `seed` for the generator, and what is known of it for the manifest."""
        ...

    def settings(self) -> dict:
        """The manifest's columns that are the same for all images."""
        ...

    def sha256(self) -> str:
        """Hash of the generating weights; "" if unknown."""
        ...

    def cut_texts(self, rows: Sequence[dict], generator: ImageGenerator) -> dict[str, str]:
        """The part that the generator reads of each text that is too long for it."""
        ...

    def load(self, rows: Sequence[dict], device: torch.device) -> ImageGenerator:
        """The generator of these rows, on its device."""
        ...


def find_model(config: GenerateConfig) -> Model:
    """The model that the config names.

    Raises:
        InputError: if there is none, or it cannot do what is requested.
    """
    run = runs.find(config.model_path, config.weights)
    return FromScratchModel(config, run) if run else StableDiffusionModel(config)


def generate(config: GenerateConfig, generator: ImageGenerator | None = None) -> Path:
    """Write PNGs and a manifest of how each was made; images that exist are kept.

    Args:
        config: what is requested.
        generator: of the config's model, if it is already loaded.

    Raises:
        InputError: for a model that cannot be loaded, an unknown class, or a folder with other settings.
    """
    model = find_model(config)
    rows = model.plan()
    accelerator = Accelerator()
    folder = Path(config.output_dir)
    claim_together(accelerator, folder, config)
    (folder / "images").mkdir(exist_ok=True)

    generator = generator or model.load(rows, accelerator.device)
    sha256 = broadcast_object_list([model.sha256() if accelerator.is_main_process else None])[0]
    trained_on = TrainedOn.read(config.model_path)
    table = _table(rows, config, model.settings(), sha256, trained_on, [image.license for image in model.init_images])
    _claim_plan(folder, table, [image.path for image in model.init_images], accelerator)
    table = _with_cut_texts(table, model.cut_texts(rows, generator), accelerator)
    facts_of = {row["file_name"]: row for row in table.to_dict("records")}
    requests = [Request(row["label"], row["seed"], folder / name) for row, name in zip(rows, facts_of, strict=True)]

    def save(request: Request, image: torch.Tensor) -> None:
        facts = facts_of[request.path.relative_to(folder).as_posix()]
        # Images are shared: a model folder is recorded by its name alone, and a source photograph, whose file name may
        # identify a patient, only in the manifest.
        names = [name for name in (*manifest.SYNTHETIC_COLUMNS, *CUT_COLUMNS) if name in facts]
        recorded = {name: facts[name] for name in names if facts[name] != "" and name != "source_image_id"}
        recorded["model"] = Path(config.model).name if Path(config.model).exists() else config.model
        if config.watermark:
            marked = watermark.embed(image.permute(1, 2, 0).numpy())
            if watermark.detect(marked) <= watermark.THRESHOLD:
                tqdm.write(f"warning: {request.path.name} is too busy for the watermark, which is not found in it")
            image = torch.from_numpy(marked).permute(2, 0, 1)
        write_synthetic(image, request.path, recorded)

    generate_missing(generator, requests, save, config.batch_size, accelerator.process_index, accelerator.num_processes)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        manifest.write(table, folder)
        Generated(sha256, trained_on, **installation.versions()).write(folder)
        _contact_sheets(table, folder, config.seed)
        print(f"{len(table)} images in {folder / 'images'}, contact sheets in {folder / 'sheets'}")
    accelerator.wait_for_everyone()
    return folder


def _claim_plan(folder: Path, table: pd.DataFrame, sources: Sequence[str], accelerator: Accelerator) -> None:
    """Refuse to resume if prompts, weights or initial images differ from those of the existing images."""
    if accelerator.is_main_process:
        if "leaky" in table:  # as earlier versions wrote it, so that their folders can be completed
            table = table.drop(columns="leaky").assign(source=table["source"] + manifest.LEAKY_SOURCE)
        plan, path = key_of(table.to_csv(), *map(hash_file, sources)), folder / ".plan"
        if path.exists() and path.read_text() != plan:
            raise InputError(
                f"{folder} has images of other prompts, weights or initial images (a retrained model, an edited grid): "
                "choose a new output_dir"
            )
        with whole_file(path) as partial:
            partial.write_text(plan)
    accelerator.wait_for_everyone()


def write_synthetic(image: torch.Tensor, path: Path, facts: dict) -> None:
    """Write a uint8 (3, H, W) image as a PNG whose text chunks state that it is synthetic, and its model."""
    comment = f"Synthetic image, not a photograph of a patient; not for diagnosis. Made by dermgen {__version__}."
    save_png(image, path, {"Comment": comment, "Software": f"dermgen {__version__}", "dermgen": json.dumps(facts)})


def _table(
    rows: list[dict],
    config: GenerateConfig,
    settings: dict,
    sha256: str,
    trained_on: TrainedOn,
    source_licenses: Sequence[str],
) -> pd.DataFrame:
    """The manifest of the images to generate: what each shows, and how it is made."""
    taken: dict[str, int] = {}
    license = combine([*trained_on.licenses, *set(source_licenses)])
    groups = sorted({row.get("dx") or "image" for row in rows})
    stem_of = dict(zip(groups, file_stems(groups), strict=True))
    full = []
    for i, row in enumerate(rows):
        group = row.get("dx") or "image"
        number = taken[group] = taken.get(group, -1) + 1
        image_id = f"{group}_{number:05d}"
        full.append(
            {
                **{c: row.get(c, "") for c in (*manifest.COLUMNS, *manifest.SYNTHETIC_COLUMNS)},
                "file_name": f"images/{stem_of[group]}_{number:05d}.png",
                "image_id": image_id,
                "source": f"dermgen {__version__}",
                "license": license.name if license else "",
                "synthetic": "true",
                "index": i,
                "model": config.model,
                "model_sha256": sha256,
                **settings,
                **({"leaky": "true"} if trained_on.leaky else {}),
            }
        )
    return pd.DataFrame(full)


def _with_cut_texts(table: pd.DataFrame, cut: Mapping[str, str], accelerator: Accelerator) -> pd.DataFrame:
    """The manifest, with columns for the part that the model reads of prompts that are too long, if there are any."""
    if not cut:
        return table
    if accelerator.is_main_process:
        prompts = {*table["prompt"], *table["negative_prompt"]} - {""}
        print(f"{cut_warning(cut, len(prompts))} (columns {' and '.join(CUT_COLUMNS)} of the manifest)")
    return table.assign(**{name: table[name.removesuffix("_read")].map(cut).fillna("") for name in CUT_COLUMNS})


def _contact_sheets(table: pd.DataFrame, folder: Path, seed: int) -> None:
    """Write one sheet per class, or one of all images if there are no classes."""
    for dx, part in table.groupby("dx"):
        images = [Image.open(folder / name) for name in subset(part, 64, seed)["file_name"]]
        contact_sheet(images, folder / "sheets" / f"{file_stem(dx or 'all')}.png", 8)
