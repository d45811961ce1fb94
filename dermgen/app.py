"""`dermgen app`: a page that generates from a model, with the nearest training image beside each sample."""

import os
import shutil
import tempfile
import threading
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml
from accelerate import Accelerator
from PIL import Image

from dermgen.config import InputError
from dermgen.data import manifest, preprocess
from dermgen.data.phantom import SITES
from dermgen.evaluate import features, images
from dermgen.evaluate.neighbours import Neighbours
from dermgen.generation.generate import find_model, generate
from dermgen.labels import HAM10000, from_labels
from dermgen.results.audit import Audit
from dermgen.results.common import is_one, read
from dermgen.sampling import ImageGenerator
from dermgen.settings.app import AppConfig
from dermgen.settings.generate import GenerateConfig
from dermgen.settings.methods import FROM_SCRATCH
from dermgen.training.run_record import RunRecord

if TYPE_CHECKING:
    import gradio

BANNER = (
    "**The samples are synthetic.** They are not photographs of patients, not for diagnosis, and not "
    "evidence of how a disease looks."
)
STYLE = ".banner {background: #7a1f1f; padding: 0.6em 1em; border-radius: 6px} .banner * {color: white}"
MOST = 16


def app(config: AppConfig) -> None:
    """Serve the page until it is interrupted.

    Raises:
        InputError: if Gradio is not installed, or the model cannot be loaded.
    """
    studio = Studio(config)
    try:
        page = build(studio)
        print(f"Open {launch(page, config.port)} (Ctrl-C ends it)", flush=True)
        page.block_thread()
    finally:
        studio.close()


def launch(page: "gradio.Blocks", port: int = 0) -> str:
    """Serve the page on this machine, and on no other; its address."""
    import gradio

    fonts = {
        "font": ["system-ui", "sans-serif"],
        "font_mono": ["monospace"],
    }  # the default ones are fetched from outside
    _, address, _ = page.launch(
        server_name="127.0.0.1",
        server_port=port or None,
        theme=gradio.themes.Default(**fonts),
        css=STYLE,
        prevent_thread_lock=True,
        share=False,
        ssr_mode=False,
        footer_links=[],
        quiet=True,
    )
    return address


class Studio:
    """What the page's buttons do: generate a set like `dermgen generate`, find its nearest training images, zip it."""

    def __init__(self, config: AppConfig):
        self.config = config
        self.folder = Path(tempfile.mkdtemp(prefix="dermgen-app-"))
        os.environ["GRADIO_TEMP_DIR"] = str(self.folder / "shown")  # Gradio keeps what it shows, real images too
        self.lock = threading.Lock()  # one device, one set at a time
        self.sets = 0
        self._loaded: tuple[Any, ImageGenerator] | None = None
        self.record = RunRecord.read(config.model)
        method = FROM_SCRATCH.get(self.record.method or "")
        self.takes_prompts = self.record.method is None
        self.takes_steps = self.takes_prompts or (method is not None and "num_inference_steps" in method.options)
        if method is not None and method.translates:
            raise InputError(f"{config.model} translates images: use dermgen generate --init_images")
        # Whatever is wrong with the model is reported now, not at the first click.
        probe = {"prompt": "-"} if self.takes_prompts else {}
        find_model(GenerateConfig(model=config.model, output_dir="-", **self._files(), **probe))
        self.train = self._training_images()
        self.neighbours: Neighbours | None = None
        self.threshold: float | None = None
        if config.audit is not None:
            if not is_one(Audit, config.audit):
                raise InputError(f"{config.audit} has no audit.json: give the folder of `dermgen audit`")
            self.threshold = read(Audit, config.audit).threshold

    @property
    def classes(self) -> list[str]:
        """The classes that can be requested."""
        if self.takes_prompts:
            return list(HAM10000.codes)
        return list(self.record.classes) if self.record.class_conditional else []

    def generate(self, requested: dict[str, Any], num_images: int, seed: int, steps: int, guidance: float) -> Path:
        """A manifest folder of new images.

        Args:
            requested: `prompt`, or attributes (`dx`, `localization`, `age`, `sex`); without values any image.
            num_images: of them.
            seed: of the first.
            steps: denoising steps, where the model takes them.
            guidance: weight of the prompt, likewise.

        Raises:
            InputError: for what the model refuses.
        """
        with self.lock:
            self.sets += 1
            folder = self.folder / f"set-{self.sets}"
            config = self._config(requested, num_images, seed, steps, guidance, folder)
            key = (config.num_inference_steps, config.guidance_scale)
            if self._loaded is None or self._loaded[0] != key:
                model = find_model(config)
                self._loaded = key, model.load(model.plan(), Accelerator().device)
            return generate(config, self._loaded[1])

    def nearest(self, folder: Path) -> list[tuple[Image.Image, str]] | None:
        """The nearest training image of each image in the folder, with its caption; None without training images."""
        if self.train is None:
            return None
        if self.neighbours is None:
            self.neighbours = Neighbours(self.train, features.load("pixels"), Accelerator())
        distance, rows, _ = self.neighbours.nearest(images.read(folder, True))
        captioned = []
        for d, row in zip(distance, rows, strict=True):
            word = "nothing to compare" if np.isnan(d) else f"distance {d:.2f}"
            if self.threshold is not None and d < self.threshold:
                word += ", A COPY?"
            picture = Image.fromarray(preprocess.read_image(Path(self.train["path"][row])))
            captioned.append((picture, f"real, {word}, {self.train['image_id'][row]}"))
        return captioned

    def legend(self) -> str:
        """What the pictures show."""
        if self.train is None:
            return "There are no training images here to compare with: give their manifest with --real."
        text = "Right of each sample: the **real** training image that is nearest to it. Distance 0 is the same picture"
        if self.threshold is None:
            return f"{text}; with --audit, copies are marked."
        return f"{text}; below {self.threshold:.2f} it counts as a copy, by the audit's threshold."

    def zip(self, folder: Path) -> Path:
        """The images with their manifest, in one file."""
        path = folder.with_suffix(".zip")
        table = manifest.read(folder)
        with zipfile.ZipFile(path, "w") as file:
            # A folder of this machine is recorded by its name alone, as in the images' own text.
            public = table.assign(model=[Path(name).name if Path(name).exists() else name for name in table["model"]])
            file.writestr("metadata.csv", public.to_csv(index=False))
            for image in sorted((folder / "images").iterdir()):
                file.write(image, f"images/{image.name}")
        return path

    def close(self) -> None:
        """Remove everything generated."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _config(self, requested, num_images, seed, steps, guidance, folder) -> GenerateConfig:
        common: dict[str, Any] = {
            "model": self.config.model,
            "output_dir": str(folder),
            "seed": int(seed),
            **self._files(),
        }
        if self.takes_steps:
            common |= {"num_inference_steps": int(steps), "guidance_scale": float(guidance)}
        if not self.takes_prompts:
            if self.classes:
                return GenerateConfig(**common, classes=f"{requested['dx']}:{int(num_images)}")
            return GenerateConfig(**common, num_images=int(num_images))
        if requested.get("prompt"):
            return GenerateConfig(**common, prompt=requested["prompt"], num_images=int(num_images))
        grid = folder.with_suffix(".yaml")
        grid.write_text(yaml.safe_dump({name: [value] for name, value in requested.items() if value}))
        return GenerateConfig(**common, grid=str(grid), num_images=int(num_images))

    def _files(self) -> dict[str, str | None]:
        return {"base_model": self.config.base_model, "variant": self.config.variant}

    def _training_images(self) -> pd.DataFrame | None:
        """The train split of the manifest that the run names, if it is here."""
        folder = self.config.real or self.record.settings.get("data_dir")
        if folder is None or (self.config.real is None and not Path(folder, "metadata.csv").exists()):
            return None
        table = manifest.select(manifest.read_real(folder, need_classes=False), split="train", where=str(folder))
        return images.read(folder, False).merge(table[["image_id"]], on="image_id")


def build(studio: Studio) -> "gradio.Blocks":
    """The page.

    Raises:
        InputError: if Gradio is not installed.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio
    except ImportError as error:
        raise InputError("the app needs Gradio: pip install 'dermgen[app]'") from error

    with gradio.Blocks(title="dermgen", analytics_enabled=False) as page:
        gradio.Markdown(BANNER, elem_classes="banner", elem_id="banner")
        with gradio.Row():
            with gradio.Column(scale=1, min_width=280):
                inputs = [*_inputs_of_content(studio), *_inputs_of_generation(studio)]
                button = gradio.Button("Draw", variant="primary", elem_id="draw")
                download = gradio.DownloadButton("Download with provenance", interactive=False, elem_id="download")
            with gradio.Column(scale=2):
                gradio.Markdown(studio.legend(), elem_id="legend")
                gallery = gradio.Gallery(
                    show_label=False, columns=4, object_fit="contain", format="png", elem_id="gallery", height="auto"
                )
        button.click(lambda *values: _on_click(studio, *values), inputs, [gallery, download])
    return page


def _inputs_of_content(studio: Studio) -> list["gradio.components.Component"]:
    """What the images show: prompt, class, site, sex, age."""
    import gradio

    names = from_labels(studio.classes)
    prompt = gradio.Textbox(
        label="Prompt (empty: from the attributes below)",
        value=studio.record.settings.get("instance_prompt") or "",
        visible=studio.takes_prompts,
        elem_id="prompt",
    )
    dx = gradio.Dropdown(
        [(f"{names[c].name} ({c})", c) for c in studio.classes],
        label="Class",
        value=(studio.classes or [None])[0],
        visible=bool(studio.classes),
    )
    with gradio.Row(visible=studio.takes_prompts):
        site = gradio.Dropdown(["", *SITES], label="Site", value="")
        sex = gradio.Dropdown(["", "female", "male"], label="Sex", value="")
        age = gradio.Number(label="Age", value=None, minimum=0, maximum=120, precision=0)
    return [prompt, dx, site, sex, age]


def _inputs_of_generation(studio: Studio) -> list["gradio.components.Component"]:
    """How they are generated: number, seed, steps, guidance."""
    import gradio

    with gradio.Row():
        number = gradio.Slider(1, MOST, 4, step=1, label="Images", elem_id="number")
        seed = gradio.Number(label="Seed", value=0, precision=0, minimum=0, elem_id="seed")
    with gradio.Row(visible=studio.takes_steps):
        steps = gradio.Slider(1, 100, 25, step=1, label="Steps", elem_id="steps")
        default = 7.5 if studio.takes_prompts else 1
        guidance = gradio.Slider(1, 15, default, step=0.5, label="Guidance", elem_id="guidance")
    return [number, seed, steps, guidance]


def _on_click(
    studio: Studio, prompt, dx, site, sex, age, number, seed, steps, guidance
) -> tuple[list[tuple], "gradio.DownloadButton"]:
    """Generate what the inputs request: the pictures with their captions, and the button with their file."""
    import gradio

    attributes = {"dx": dx, "localization": site, "sex": sex, "age": None if age is None else int(age)}
    requested = {"prompt": prompt.strip()} if prompt.strip() else attributes
    try:
        folder = studio.generate(requested, number, seed, steps, guidance)
    except InputError as error:
        raise gradio.Error(str(error)) from error
    table = manifest.read(folder)
    cut = set(table.get("prompt_read", [])) - {""}
    if cut:
        gradio.Warning(f"The prompt is too long: the model reads only {min(cut)!r}")
    pictures = [(str(folder / row["file_name"]), f"synthetic, seed {row['seed']}") for row in table.to_dict("records")]
    partners = studio.nearest(folder)
    if partners is not None:
        pictures = [picture for both in zip(pictures, partners, strict=True) for picture in both]
    return pictures, gradio.DownloadButton(value=str(studio.zip(folder)), interactive=True)
