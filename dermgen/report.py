"""`dermgen report`: one self-contained HTML page from the result folders of all stages."""

import base64
import datetime
import io
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from PIL import Image

from dermgen import __version__, plots, stages
from dermgen.blocks import Block, Picture, Table, Text, Warning, counted, sentence
from dermgen.classify.comparison import intervals
from dermgen.config import InputError, whole_file
from dermgen.data import manifest, preparation_report, preprocess
from dermgen.data.prepared import Prepared, Split
from dermgen.data.sheets import contact_sheet
from dermgen.data.subsets import subset
from dermgen.results.classifier import ClassifierResult
from dermgen.results.common import in_unit, read, shown, with_unit
from dermgen.settings.report import ReportConfig
from dermgen.summary import Section, summarize
from dermgen.training import metrics_log
from dermgen.training.run_record import RunRecord

GRID = 32  # images of a set that are shown
TITLES = {
    "data": "Data",
    "training": "Training",
    "generated": "Generated images",
    "scores": "Scores",
    "audit": "Copies of training images",
    "filter": "Quality filter",
    "classifier": "Classifier",
    "study": "Do synthetic images help a classifier?",
}
NAMED = ("training", "classifier")  # of which a work has several, so that titles name the folder


def report(config: ReportConfig) -> Path:
    """Write the page; returns its path.

    Raises:
        InputError: if a folder is missing, or none of them was written by a stage.
    """
    out = Path(config.output_dir)
    folders = [(stage, folder) for folder in stages.find(config.folders, out) for stage in stages.of(folder)]
    if not folders:
        raise InputError(f"no results of dermgen in {', '.join(config.folders)}: nothing to report")
    folders.sort(key=lambda pair: stages.STAGES.index(pair[0]))
    plots_dir = out / "plots"
    try:
        plots_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {out} ({error.strerror}): choose another output_dir") from error
    real = next((folder for stage, folder in folders if stage == "data"), None)
    several = {stage for stage, n in Counter(stage for stage, _ in folders).items() if n > 1}
    sections, contents = [], []
    for i, (stage, folder) in enumerate(folders):
        headline, blocks = _told(stage, folder, plots_dir / f"{i}_{folder.name}", real)
        title = f"{TITLES[stage]}: {folder.name}" if stage in (*NAMED, *several) else TITLES[stage]
        warnings = sum(isinstance(block, Warning) for block in blocks)
        sections.append(Section(stage, f"s{i}", title, headline, warnings))
        contents.append({"folder": folder, "blocks": _for_page(blocks)})
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dermgen"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"sentence": sentence, "counted": counted, "unbroken": _unbroken}
    page = environment.get_template("report.html.j2").render(
        title=config.title,
        version=__version__,
        date=datetime.date.today().isoformat(),
        summary=summarize(sections),
        sections=list(zip(sections, contents, strict=True)),
    )
    path = out / "report.html"
    with whole_file(path) as partial:
        partial.write_text(page, encoding="utf-8")
    print(f"{counted(len(sections), 'section')} in {path} ({path.stat().st_size / 2**20:.1f} MiB)")
    return path


def _told(stage: str, folder: Path, plot: Path, real: Path | None) -> tuple[str, list[Block]]:
    """The headline and the report of a stage's folder; plots that are made here have paths that begin with `plot`."""
    if stage == "data":
        return _data(folder, plot)
    if stage == "training":
        return RunRecord.read(folder).headline(), _training(folder, plot)
    if stage == "generated":
        return _generated(folder, plot, real)
    result = read(stages.RESULTS[stage], folder)
    if isinstance(result, ClassifierResult):
        confusion = Path(f"{plot}_confusion.png")
        plots.confusions(confusion, result.classes, {"test": result.test["confusion"]})
        of_lesions = intervals(folder / "predictions_test.csv", result.classes)
        return result.headline(of_lesions), result.blocks(of_lesions, confusion)
    return result.headline(), result.blocks(folder)


def _for_page(blocks: Sequence[Block]) -> list[dict[str, Any]]:
    """The blocks as the template expects them; adjacent pictures are shown side by side."""
    shown = [block for block in blocks if not isinstance(block, Picture) or block.path.exists()]
    parts: list[dict[str, Any]] = []
    for kind, group in groupby(shown, type):
        if kind is Picture:
            pictures = [{"src": data_uri(p), "caption": p.caption, "photographs": p.photographs} for p in group]
            parts.append({"kind": "pictures", "pictures": pictures})
        elif kind is Table:
            parts += [{"kind": "table", "head": t.head, "rows": t.rows, "main": t.main} for t in group]
        elif kind is Warning:
            parts += [{"kind": "warning", "text": w.text, "example": w.example} for w in group]
        else:
            parts += [{"kind": text.kind, "text": text.text} for text in group]
    return parts


def _data(folder: Path, plot: Path) -> tuple[str, list[Block]]:
    table, prepared, split = manifest.read(folder), Prepared.read(folder), Split.of(folder)
    counts = preparation_report.class_counts(table)
    bars, grid = Path(f"{plot}_classes.png"), Path(f"{plot}_images.png")
    plots.bars(bars, "Images per class", "images", {s: counts[s].to_dict() for s in counts.columns})
    _grid(table, folder, grid)
    return preparation_report.headline(prepared, split), [
        *preparation_report.blocks(prepared, table, split),
        Picture(bars, "Images per class and split"),
        Picture(grid, "Some of the prepared images", photographs=True),
    ]


def _training(folder: Path, plot: Path) -> list[Block]:
    lines = metrics_log.read(folder / "metrics.jsonl")
    record = RunRecord.read(folder)
    warnings = dict.fromkeys(w for entry in record.trained_on.data for w in entry.split.warnings())
    blocks: list[Block] = [*map(Warning, warnings), Text(record.headline(), "verdict")]
    if not lines:
        return [*blocks, Text("Nothing has been logged yet.")]
    steps = f"{counted(lines[-1]['step'], 'optimizer step')} logged."
    classes = f" Classes: {', '.join(record.classes)}." if record.classes else ""
    best, text = record.best(), f"{steps}{classes}"
    if best is not None:
        text += f" Best {_name(record.best_by)}: {shown(_score(record.best_by), best[1])} at step {best[0]:,}."
    return [*blocks, Text(text), *_curves(lines, plot), *_samples(folder / "samples", record)]


def _curves(lines: Sequence[dict[str, Any]], plot: Path) -> list[Picture]:
    """What was logged against the step, measurements on held-out images first."""
    pictures = []
    names = sorted({n for line in lines for n in line} - {"step", "learning_rate"})
    for name in sorted(names, key=lambda name: not name.startswith(("val_", "held_out")))[:6]:
        points = [(line["step"], in_unit(_score(name), line[name])) for line in lines if name in line]
        if len(points) > 1:
            path, title = Path(f"{plot}_{name}.png"), _name(name)
            plots.curves(path, title, "", {name: points})
            pictures.append(Picture(path, f"{title[:1].upper()}{title[1:]} against the step"))
    return pictures


def _score(logged: str) -> str:
    """The score that a name in the log is of."""
    return logged.removeprefix("val_")


def _name(logged: str) -> str:
    """A name in the log as a reader knows it."""
    return f"{'held-out ' if logged.startswith('val_') else ''}{with_unit(_score(logged))}"


def _samples(samples: Path, record: RunRecord) -> list[Picture]:
    """The last grid of samples, and the pictures of methods that make others."""
    last = sorted(samples.glob("step-*.png"), key=lambda p: int(p.stem.split("-")[1]))[-1:]
    caption, settings = "", record.settings
    if prompts := settings.get("validation_prompt"):
        base = "of the base model above one of the trained model"
        rows = f"a row {base}" if settings.get("validation_base_rows", True) else "a row"
        caption = f"; for each prompt {rows}: {'; '.join(prompts)}"
    return [
        *(Picture(path, f"Samples at {path.stem.replace('-', ' ')}{caption}", photographs=True) for path in last),
        Picture(samples / "reconstructions.png", "Held-out images, each beside its reconstruction", photographs=True),
        Picture(samples / "interpolations.png", "From one image to another, in the latents", photographs=True),
        Picture(
            samples / "style_mixing.png",
            "Coarse styles of the first column with fine styles of the first row",
            photographs=True,
        ),
    ]


def _generated(folder: Path, plot: Path, real: Path | None) -> tuple[str, list[Block]]:
    table = manifest.read(folder)
    models = ", ".join(sorted(set(table.get("model", pd.Series(dtype=str))) - {""})) or "an unknown model"
    counts = table["dx"].replace("", "unknown").value_counts()
    grid = Path(f"{plot}_synthetic.png")
    _grid(table, folder, grid)
    images = counted(len(table), "synthetic image")
    named = ", ".join(f"{dx} {n:,}" for dx, n in counts.items()) if len(counts) < 5 else f"{len(counts)} classes"
    headline = f"{images} ({named}) {'was' if len(table) == 1 else 'were'} generated by {models}."
    blocks: list[Block] = [
        *map(Warning, Split(manifest.is_leaky(table)).warnings()),
        Text(headline, "verdict"),
        Table(["class", "images"], [[dx, f"{n:,}"] for dx, n in counts.items()]),
        Picture(grid, "Synthetic", photographs=True),
    ]
    if real is not None:
        held_out = manifest.read(real)
        held_out = held_out[(held_out["split"] == "test") & held_out["dx"].isin(set(table["dx"]))]
        if len(held_out):
            path = Path(f"{plot}_real.png")
            _grid(held_out, real, path, like=table)
            blocks.append(Picture(path, "Real, held out, of the same classes", photographs=True))
    return headline, blocks


def _grid(table: pd.DataFrame, folder: Path, path: Path, like: pd.DataFrame | None = None) -> None:
    """Images of every class in turn; with `like`, as many of each class as a grid of that table shows."""
    counts = subset(table if like is None else like, GRID, 0, "turns")["dx"].value_counts()
    chosen = pd.concat([subset(table[table["dx"] == dx], n, 0) for dx, n in counts.sort_index().items()])
    pictures = []
    for name in chosen["file_name"]:
        try:
            pictures.append(Image.fromarray(preprocess.read_image(folder / name)))
        except (preprocess.BadImage, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"{folder / name}, an image of {folder}, cannot be shown: {reason}; restore it or remove its row"
            ) from error
    contact_sheet(pictures, path, 8, list(chosen["dx"]), largest=96)


def _unbroken(text: str) -> str:
    """The text whose lines do not break within `95 % CI` and `KID x 1000`."""
    return text.replace("95 % CI", "95\u00a0%\u00a0CI").replace(" x 1000", "\u00a0x\u00a01000")


def data_uri(picture: Picture) -> str:
    """The picture as a data URI; photographs as JPEG, which is a tenth of the size."""
    if not picture.photographs:
        return "data:image/png;base64," + base64.b64encode(picture.path.read_bytes()).decode()
    file = io.BytesIO()
    with Image.open(picture.path) as image:
        image.convert("RGB").save(file, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
