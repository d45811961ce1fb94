"""What is asked of `dermgen generate`, and what draws it: a Stable Diffusion, or a run trained from scratch."""

import dataclasses
import itertools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from dermgen import runs, watermark
from dermgen.config import InputError, read_yaml, require_seeds
from dermgen.data import captions, manifest, preprocess
from dermgen.data.cache import key_of
from dermgen.data.loading import Example, PixelSet, folder_examples
from dermgen.data.subsets import choose
from dermgen.labels import TAXONOMIES, Taxonomy, from_labels
from dermgen.sampling import GeneratorOptions, ImageGenerator, class_indices
from dermgen.settings.generate import GRID_FIELDS, GenerateConfig
from dermgen.stable_diffusion import files, weight_files
from dermgen.stable_diffusion.generator import StableDiffusionGenerator, native_resolution
from dermgen.stable_diffusion.inputs import check_prompts, cut_texts
from dermgen.stable_diffusion.pipeline import load_adapter, load_pipeline
from dermgen.stable_diffusion.weights import LORA_FILE
from dermgen.training.run_record import RunRecord
from dermgen.training.schedulers import check_steps


@dataclass(frozen=True)
class Source:
    """An image that another is made from."""

    path: str
    image_id: str
    dx: str = ""
    license: str = ""
    lesion_id: str = ""


def read_sources(folder: str | None, split: str, dx: str | None = None) -> list[Source]:
    """The images of a plain folder by name, or of one split, and perhaps one class, of a manifest; none for None.

    Raises:
        InputError: if there are none, or a manifest's images are synthetic.
    """
    if folder is None:
        return []
    if not Path(folder, "metadata.csv").exists():
        return [Source(e.path, e.image_id) for e in folder_examples(folder, "", "init_images")]
    table = manifest.select(manifest.read_real(folder, need_classes=False), dx=dx, split=split, where=folder)
    columns = ("path", "image_id", "dx", "license", "lesion_id")
    return [Source(*row) for row in zip(*(table[c] for c in columns), strict=True)]


def some_sources(sources: Sequence[Source], number: int, seed: int) -> list[Source]:
    """A random subset of this many; all, where there are no more."""
    of = {name: [getattr(s, name) for s in sources] for name in ("image_id", "lesion_id", "dx")}
    return [sources[i] for i in choose(of["image_id"], number, seed, of["lesion_id"], of["dx"])]


# Options of `dermgen generate` that mean something for every model.
EVERY_MODEL = frozenset(
    "model output_dir caption_template weights seed batch_size resolution prompt grid watermark".split()
)
GENERATOR_OPTIONS = {field.name for field in dataclasses.fields(GeneratorOptions)}


def _refuse_unused(config: GenerateConfig, known: Collection[str], what: str) -> None:
    """Raise `InputError` for an option that is given and would do nothing."""
    for field in dataclasses.fields(config):
        if field.name not in known and getattr(config, field.name) != field.default:
            raise InputError(f"--{field.name} has no meaning for {what}: leave it out")


class StableDiffusionModel:
    """A Stable Diffusion: a pipeline folder, a Hub id, or a run of LoRA with its base model.

    Raises:
        InputError: if it cannot be had, or options of other methods are given.
    """

    def __init__(self, config: GenerateConfig):
        self.config = config
        if config.prompt is None and config.classes is None and config.grid is None:
            raise InputError("a Stable Diffusion needs one of --prompt, --classes and --grid")
        fields = {field.name for field in dataclasses.fields(config)}
        _refuse_unused(config, fields - {"truncation", "weights", "direction"}, "a Stable Diffusion")
        self.guidance_scale = 7.5 if config.guidance_scale is None else config.guidance_scale
        if self.guidance_scale < 1:
            raise InputError(f"guidance_scale must be at least 1 for a Stable Diffusion, got {self.guidance_scale}")
        self.num_inference_steps = config.num_inference_steps or 25
        self.scheduler = config.scheduler or "dpmsolver++"
        self.sources = read_sources(config.init_images, config.init_split)
        self.base: str | None = None
        self.record = RunRecord.read(config.model)
        self.variant = config.variant
        path = Path(config.model)
        self.adapter = path if path.suffix == ".safetensors" else path / LORA_FILE
        if self.adapter.is_file():
            weight_files.adapted_layers(self.adapter)  # whatever else it is, is said first
            self.base = config.base_model or self._base()
            self.variant = config.variant or (None if config.base_model else self._setting("variant"))
        elif path.is_dir() and (path / "config.yaml").exists() and not (path / "model_index.json").exists():
            raise InputError(
                f"the run in {path} has no final weights yet: let its training finish (the same command goes on)"
            )
        if self.base is None:
            _refuse_unused(config, fields - {"base_model", "adapter_weight"}, f"{config.model}, which is no LoRA")
        self.revision = self._setting("revision") if self.base and not config.base_model else None
        files.check_model(self.base or config.model, self.variant, self.revision)
        schedule = files.scheduler_config(self.base or config.model, self.revision)
        check_steps(self.scheduler, schedule, self.num_inference_steps, config.strength if self.sources else 1.0)
        self.base_sha256, self.base_checked = "", False
        if self.base:
            self._check_base()
        if self.sources:
            self.sources = some_sources(self.sources, len(self._asked()), config.seed)

    def _base(self) -> str:
        """The base model of a LoRA run, in the place where it was when the run was trained."""
        name, place = self._setting("pretrained_model_name_or_path"), self.record.base_path
        if not name:
            raise InputError(f"{self.adapter} are LoRA weights and do not say of which model: give --base_model")
        if place and Path(place).is_dir():
            return place
        if place and not Path(name).is_dir():
            raise InputError(
                f"the base model of {self.config.model} was in {place} and is not there any more: say where it is by "
                "--base_model"
            )
        if place is None and self.record.base_sha256 is None and Path(name).is_dir() and not Path(name).is_absolute():
            print(f"note: {self.config.model} does not record which base model it had; {Path(name).resolve()} is taken")
        return name

    def _check_base(self) -> None:
        """Where the base model is on this machine: does it fit the adapters, is it the one they were trained on?"""
        folder, known = files.local_folder(self.base, self.revision, self.variant), self.record.base_sha256
        if folder is None or self.base_checked:
            return
        self.base_checked = True
        shapes = [files.part_shapes(folder, part, self.variant) for part in ("unet", "text_encoder")]
        weight_files.check_adapter(self.adapter, self.base, *shapes)
        hashed = known or self.config.base_model
        self.base_sha256 = files.base_sha256(folder, self.variant) if hashed else ""
        if known and self.base_sha256 != known:
            told = f"{self.base} has other weights than the base model that {self.config.model} was trained on"
            if self.config.base_model is None:
                raise InputError(f"{told}: say by --base_model where that one is")
            print(f"warning: {told}, since --base_model asks for it")

    def plan(self) -> list[dict]:
        """One row per image: label (its prompt), seed, and what is known of it (dx, localization, age, sex)."""
        rows, asked = [], self._asked()
        require_seeds(self.config.seed, len(asked))
        for i, row in enumerate(asked):
            seed = self.config.seed + i
            source = self.sources[seed % len(self.sources)].image_id if self.sources else ""
            prompt = row["prompt"]
            rows.append({**row, "label": prompt, "caption": prompt, "seed": seed, "source_image_id": source})
        return rows

    def settings(self) -> dict:
        """The manifest's columns that are the same for all images."""
        return {
            "negative_prompt": self.config.negative_prompt,
            "guidance_scale": self.guidance_scale,
            "num_inference_steps": self.num_inference_steps,
            "scheduler": self.scheduler,
            "strength": self.config.strength if self.sources else "",
        }

    def sha256(self) -> str:
        """Of the weights that draw; "" for a model on the Hub. Adapters differ by strength and base."""
        found, config = runs.weights_sha256(self.config.model), self.config
        known = self.record.base_sha256
        own_base = config.base_model is None or (known and self.base_sha256 == known)
        if self.base is None or (config.adapter_weight == 1 and own_base):
            return found
        return key_of(found, self.base_sha256 or self.base, config.adapter_weight)

    def cut_texts(self, rows: Sequence[dict], generator: ImageGenerator) -> dict[str, str]:
        """What the generator reads of the prompts that are too long for it."""
        texts = [*(row["label"] for row in rows), self.config.negative_prompt]
        return cut_texts(texts, generator.pipeline.tokenizer)

    def load(self, rows: Sequence[dict], device: torch.device) -> ImageGenerator:
        """The generator, on its device."""
        config = self.config
        default = "fp16" if device.type in ("cuda", "xpu") else "fp32"
        dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[config.dtype or default]
        # A LoRA run knows which files of its base model it was trained with.
        tokenizer = self._setting("tokenizer_name") if self.base else None
        pipeline = load_pipeline(self.base or config.model, self.revision, self.variant, tokenizer, dtype)
        prediction_type = self._setting("prediction_type")
        if self.base is not None and prediction_type:
            kind = type(pipeline.scheduler)
            pipeline.scheduler = kind.from_config(pipeline.scheduler.config, prediction_type=prediction_type)
        check_prompts({row["label"] for row in rows}, pipeline.tokenizer)
        if self.base is not None:
            self._check_base()  # one of the Hub is here by now
            load_adapter(pipeline, self.adapter, config.adapter_weight)
        pipeline.to(device)
        if not self.sources:
            pipeline.vae.to(torch.float32)  # decoding overflows in fp16
        resolution = config.resolution or native_resolution(pipeline)
        return StableDiffusionGenerator(
            pipeline,
            self.num_inference_steps,
            self.guidance_scale,
            config.negative_prompt,
            self.scheduler,
            resolution,
            [_square(source, resolution) for source in self.sources],
            config.strength,
        )

    def _asked(self) -> list[dict]:
        config = self.config
        if config.prompt is not None:
            return [{"prompt": config.prompt}] * (config.num_images or 16)
        taxonomy = TAXONOMIES[config.taxonomy]
        if config.grid is not None:
            return [row for row in grid_rows(config, taxonomy) for _ in range(config.num_images or 16)]
        own, rows = (self._setting("instance_class"), self._setting("instance_prompt")), []
        for code, count in class_counts(config.classes):
            # Class and prompt that a DreamBooth run was taught together.
            prompt = own[1] if own[0] == code and own[1] else fill(config.caption_template, {"dx": code}, taxonomy)
            rows += [{"prompt": prompt, "dx": code}] * count
        return rows

    def _setting(self, name: str) -> str | None:
        return self.record.settings.get(name)


class FromScratchModel:
    """A finished run of a method trained from scratch.

    Raises:
        InputError: if what is asked for is not what the run can draw.
    """

    def __init__(self, config: GenerateConfig, run: runs.TrainedRun):
        self.config, self.run = config, run
        if config.prompt is not None or config.grid is not None:
            raise InputError(
                f"{config.model} is a run of {run.name}, which reads no prompts: give --classes, or --num_images "
                "where it was trained without classes"
            )
        _refuse_unused(config, {*EVERY_MODEL, "num_images", "classes", *run.method.options}, f"a run of {run.name}")
        if config.watermark:
            watermark.require_room(run.resolution, run.resolution)
        if config.classes is not None and config.num_images is not None:
            raise InputError("--classes says how many images of each class: leave --num_images out")
        if config.resolution not in (None, run.resolution):
            raise InputError(f"{config.model} draws {run.resolution} px only: leave --resolution out")
        self.sources = self._sources() if run.method.translates else []
        # What was not requested is the generator's default.
        given = {name: getattr(config, name) for name in run.method.options & GENERATOR_OPTIONS}
        self.options = GeneratorOptions(**{name: value for name, value in given.items() if value is not None})
        if "scheduler" in run.method.options:
            schedule = files.scheduler_config(str(run.folder))
            check_steps(self.options.scheduler, schedule, self.options.num_inference_steps)

    def plan(self) -> list[dict]:
        """One row per image: label (its class, "" where none can be asked for), seed, and its class."""
        config, run = self.config, self.run
        if run.method.translates:
            return self._translations()
        if config.classes is not None:
            asked = [code for code, count in class_counts(config.classes) for _ in range(count)]
        elif run.class_conditional:
            raise InputError(
                f"{config.model} draws the classes {', '.join(run.classes)}: give --classes, e.g. {run.classes[0]}:100"
            )
        else:
            asked = [run.only_class] * (config.num_images or 16)
        class_indices(asked, run.classes, run.class_conditional)
        require_seeds(config.seed, len(asked))
        return [self._row(dx, config.seed + i) for i, dx in enumerate(asked)]

    def settings(self) -> dict:
        """The manifest's columns that are the same for all images."""
        names = ("guidance_scale", "num_inference_steps", "scheduler", "truncation")
        return {name: getattr(self.options, name) if name in self.run.method.options else "" for name in names}

    def sha256(self) -> str:
        """Of the weights that draw."""
        return self.run.sha256()

    def cut_texts(self, rows: Sequence[dict], generator: ImageGenerator) -> dict[str, str]:
        """Nothing: its labels are classes."""
        return {}

    def load(self, rows: Sequence[dict], device: torch.device) -> ImageGenerator:
        """The generator, on its device."""
        options = self.options
        if self.sources:  # resized as the training images were
            examples = [Example(source.path, "", source.image_id) for source in self.sources]
            dataset = PixelSet(examples, [0] * len(examples), self.run.resolution, interpolation="bicubic")
            options = dataclasses.replace(options, sources=torch.stack([item["pixels"] for item in dataset]))
        return runs.load_generator(self.run, device, **vars(options))

    def _sources(self) -> list[Source]:
        """What a CycleGAN translates: of a manifest only the kind that it translates from, where that is a class."""
        config, (first, second) = self.config, self.run.classes
        if config.init_images is None:
            raise InputError("a CycleGAN translates images: give --init_images, a folder or a manifest of them")
        kind = first if config.direction == "a_to_b" else second
        found = read_sources(config.init_images, config.init_split, None if kind in ("a", "b") else kind)
        return some_sources(found, config.num_images or len(found), config.seed)

    def _translations(self) -> list[dict]:
        target = self.run.classes[1 if self.config.direction == "a_to_b" else 0]
        if self.config.classes is not None:
            raise InputError(
                f"a CycleGAN makes one {target!r} image of each source: choose by --init_images and --direction"
            )
        rows = []
        for i, source in enumerate(self.sources):
            dx = source.dx if target in ("a", "b") else target
            # Sources are taken by seed: image i is made of source i.
            rows.append({**self._row(dx, i), "source_image_id": source.image_id})
        return rows

    def _row(self, dx: str, seed: int) -> dict:
        caption = fill(self.config.caption_template, {"dx": dx}, from_labels([dx])) if dx else ""
        return {"label": dx, "dx": dx, "seed": seed, "caption": caption}


def find_model(config: GenerateConfig) -> StableDiffusionModel | FromScratchModel:
    """The model that the config names.

    Raises:
        InputError: if there is none, or it cannot do what is asked.
    """
    run = runs.find(config.model, config.weights)
    return FromScratchModel(config, run) if run else StableDiffusionModel(config)


def class_counts(text: str) -> list[tuple[str, int]]:
    """The pairs of `mel:500,df:300`; a class may have commas and colons. Raises `InputError` for anything else."""
    counts, rest = [], text
    while rest.strip():
        found = re.match(r"\s*(.+?)\s*:\s*([0-9]+)\s*(?:,|$)", rest)
        if not found or int(found[2]) < 1:
            raise InputError(f"--classes must be like mel:500,df:300, got {rest.strip()!r}")
        counts.append((found[1], int(found[2])))
        rest = rest[found.end() :]
    if not counts:
        raise InputError(f"--classes must be like mel:500,df:300, got {text!r}")
    return counts


def grid_rows(config: GenerateConfig, taxonomy: Taxonomy) -> list[dict]:
    """Every combination of the lists in the grid's file, each with its prompt."""
    path = Path(config.grid)
    lists = read_yaml(path, "the grid")
    if not isinstance(lists, dict) or not all(isinstance(v, list) and v for v in lists.values()):
        raise InputError(f"{path} must hold lists, as `dx: [mel, df]`")
    unknown = set(lists) - set(GRID_FIELDS)
    if unknown:
        raise InputError(
            f"{path}: unknown attribute {sorted(unknown)[0]!r}; the attributes are {', '.join(GRID_FIELDS)}"
        )
    template = config.caption_template
    if "skin_tone" in lists and "{skin_tone}" not in template:
        template += ", {skin_tone}"
    rows = []
    for values in itertools.product(*lists.values()):
        row = dict(zip(lists, values, strict=True))
        rows.append({**row, "prompt": fill(template, row, taxonomy)})
    return rows


def fill(template: str, row: dict, taxonomy: Taxonomy) -> str:
    """The caption template with the attributes of `row`, its class by name."""
    lesion = taxonomy[row["dx"]] if "dx" in row else None
    malignancy = lesion.malignancy if lesion else ""
    return captions.fill(template, {"malignancy": malignancy, **row, "dx": lesion.name if lesion else ""})


def _square(source: Source, size: int) -> Image.Image:
    """The middle square of an image, resized."""
    try:
        image = preprocess.read_image(Path(source.path))
    except preprocess.BadImage as error:
        raise InputError(f"{source.path}: {error}") from error
    top, left, side = preprocess.center_box(*image.shape[:2])
    return Image.fromarray(preprocess.resize(image[top : top + side, left : left + side], size))
