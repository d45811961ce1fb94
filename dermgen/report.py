"""`dermgen report`: one self-contained HTML page from the files of whatever stages exist."""

import base64
import datetime
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from PIL import Image

from dermgen import __version__, plots, stages
from dermgen.config import InputError, whole_file
from dermgen.data import manifest, preprocess
from dermgen.data.sheets import contact_sheet
from dermgen.data.subsets import subset
from dermgen.evaluate.verdict import explanation
from dermgen.filtering import FLATTERED
from dermgen.settings.report import ReportConfig
from dermgen.training import metrics_log
from dermgen.training.best import kept_scores

GRID = 32  # images of a set that are shown


@dataclass
class Section:
    """One stage on the page."""

    title: str
    folder: Path
    notes: list[str] = field(default_factory=list)
    blocks: list[dict[str, Any]] = field(default_factory=list)
    id: str = ""

    def text(self, text: str, kind: str = "text") -> None:
        self.blocks.append({"kind": kind, "text": text})

    def table(self, head: Sequence[str], rows: Sequence[Sequence], main: Sequence[int] = ()) -> None:
        self.blocks.append({"kind": "table", "head": head, "rows": rows, "main": main})

    def pictures(self, *pictures: tuple[Path, str]) -> None:
        there = [{"src": _data_uri(path), "caption": caption} for path, caption in pictures if path.exists()]
        if there:
            self.blocks.append({"kind": "pictures", "pictures": there})


def report(config: ReportConfig) -> Path:
    """Write the page; returns its path.

    Raises:
        InputError: if a folder is missing, or none of them is a stage's.
    """
    out = Path(config.output_dir)
    found = [(WRITERS[stage], folder) for folder in stages.find(config.folders, out) for stage in stages.of(folder)]
    if not found:
        raise InputError(f"no stage of dermgen in {', '.join(config.folders)}: nothing to report")
    order = list(WRITERS.values())
    found.sort(key=lambda pair: order.index(pair[0]))
    plots_dir = out / "plots"
    try:
        plots_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {out} ({error.strerror}): choose another output_dir") from error
    real = next((folder for write, folder in found if write is _data), None)
    sections = []
    for i, (write, folder) in enumerate(found):
        section = Section("", folder, id=f"s{i}")
        write(section, folder, plots_dir / f"{i}_{folder.name}", real)
        sections.append(section)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dermgen"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("report.html.j2").render(
        title=config.title, version=__version__, date=datetime.date.today().isoformat(), sections=sections
    )
    path = out / "report.html"
    with whole_file(path) as partial:
        partial.write_text(page, encoding="utf-8")
    print(f"{len(sections)} sections in {path} ({path.stat().st_size / 2**20:.1f} MiB)")
    return path


def _data(section: Section, folder: Path, plot: Path, real: Path | None) -> None:
    section.title = "Data"
    facts = json.loads((folder / "prepare.json").read_text())
    audit, table = facts["audit"], manifest.read(folder)
    section.notes += manifest.split_warnings(manifest.split_facts(folder))
    section.text(
        f"{audit['images']:,} images of {audit['groups']:,} groups; a group is a lesion or patient with its "
        f"near-duplicates. Groups in more than one split: "
        f"{'not known' if audit['groups_crossing_splits'] is None else audit['groups_crossing_splits']}. "
        f"Near-duplicates under different ids: {audit['near_duplicate_pairs']} pairs. "
        f"Licence: {', '.join(sorted(set(table['license']) - {''})) or 'unknown'}."
    )
    counts = pd.crosstab(table["dx"].replace("", "unknown"), table["split"]).reindex(
        columns=list(manifest.SPLITS), fill_value=0
    )
    bars = f"{plot}_classes.png"
    plots.bars(Path(bars), "Images per class", "images", {s: counts[s].to_dict() for s in counts.columns})
    rows = [[dx, *counts.loc[dx].tolist(), int(counts.loc[dx].sum())] for dx in counts.index]
    section.table(["class", *counts.columns, "all"], rows)
    if facts["rejected"]:
        section.table(["left out because", "files"], list(facts["rejected"].items()))
    grid = Path(f"{plot}_images.png")
    _grid(table, folder, grid)
    section.pictures((Path(bars), "Images per class and split"), (grid, "Some of the prepared images"))


def _training(section: Section, folder: Path, plot: Path, real: Path | None) -> None:
    section.title = f"Training: {folder.name}"
    lines = metrics_log.read(folder / "metrics.jsonl")
    provenance = folder / "provenance.json"
    facts = json.loads(provenance.read_text()) if provenance.exists() else {}
    section.notes += dict.fromkeys(w for entry in facts.get("data", []) for w in manifest.split_warnings(entry))
    if not lines:
        section.text("Nothing has been logged yet.")
        return
    section.text(f"{lines[-1]['step']:,} optimizer steps.")
    if "method" in facts:
        section.text(
            f"A {facts['method']} of {facts['parameters'] / 1e6:.1f} M weights at {facts['resolution']} px, classes: "
            f"{', '.join(facts['classes']) or 'none'}."
        )
    scores = kept_scores(folder, facts.get("best_by", ""))
    if scores.by_step:
        step = scores.best_step
        section.text(f"Best {facts['best_by']} {scores.by_step[step]:.4g} at step {step:,}.")
    # What was measured on held-out images comes first.
    names = sorted({n for line in lines for n in line} - {"step", "learning_rate"})
    names = sorted(names, key=lambda name: not name.startswith("val_"))
    drawn = []
    for name in names[:6]:
        points = [(line["step"], line[name]) for line in lines if name in line]
        if len(points) > 1:
            path = Path(f"{plot}_{name}.png")
            plots.curves(path, name, name, {name: points})
            drawn.append((path, f"{name} against the step"))
    section.pictures(*drawn)
    samples = sorted((folder / "samples").glob("step-*.png"), key=lambda p: int(p.stem.split("-")[1]))
    if samples:
        section.pictures((samples[-1], f"Samples at {samples[-1].stem.replace('-', ' ')}"))
    for name, caption in (
        ("reconstructions", "Held-out images, each beside its reconstruction"),
        ("interpolations", "From one image to another, in the latents"),
        ("style_mixing", "Coarse styles of the first column with fine styles of the first row"),
    ):
        section.pictures((folder / "samples" / f"{name}.png", caption))


def _generated(section: Section, folder: Path, plot: Path, real: Path | None) -> None:
    section.title = "Generated images"
    table = manifest.read(folder)
    models = ", ".join(sorted(set(table.get("model", pd.Series(dtype=str))) - {""})) or "unknown"
    section.text(f"{len(table):,} synthetic images, drawn by {models}.")
    if "LEAKY" in " ".join(set(table["source"])):
        section.notes += manifest.split_warnings({"leaky": True})
    counts = table["dx"].replace("", "unknown").value_counts()
    section.table(["class", "images"], [[dx, int(n)] for dx, n in counts.items()])
    ours = Path(f"{plot}_synthetic.png")
    _grid(table, folder, ours)
    pictures = [(ours, "Synthetic")]
    if real is not None:
        beside = manifest.read(real)
        beside = beside[(beside["split"] == "test") & beside["dx"].isin(set(table["dx"]))]
        if len(beside):
            theirs = Path(f"{plot}_real.png")
            _grid(beside, real, theirs, like=table)
            pictures.append((theirs, "Real, held out, of the same classes"))
    section.pictures(*pictures)


def _scores(section: Section, folder: Path, plot: Path, real: Path | None) -> None:
    section.title = "Scores"
    found = json.loads((folder / "evaluation.json").read_text())
    section.notes += dict.fromkeys([*manifest.split_warnings(found), *found["warnings"]])
    e, overall = found["extractor"], found["groups"][0]
    section.text(
        f"{overall['n_synthetic']:,} synthetic images against {overall['n_real']:,} held-out real ones. Features: "
        f"{e['name']} (revision {e['revision']}) at {e['resolution']} px, resized {e['resize']}. The floor is what "
        f"{overall['n_floor']:,} real images get in their place. A score that is better against the "
        "training split than against held-out images can come from copying. Intervals are 95 %, over new real and "
        "synthetic images; those of precision, recall, density and coverage are cautious."
    )
    head = ["score", "value", "95 % interval", "floor (real)", "at the floor's number", "training split"]
    rows = [
        [
            n,
            _num(s["value"]),
            f"{_num(s['low'])} to {_num(s['high'])}",
            *(_num(s[k]) for k in ("floor", "at_floor_n", "train")),
        ]
        for n, s in overall["scores"].items()
    ]
    section.table(head, rows, main=[0])
    if len(found["groups"]) > 1:
        section.text("By class and subgroup", "heading")
        rows = [
            [
                f"{g['scope']}: {g['group']}",
                g["n_real"],
                g["n_synthetic"],
                *(_with_floor(g["scores"][n]) for n in ("kid", "precision", "recall", "coverage")),
            ]
            for g in found["groups"][1:]
        ]
        section.table(["", "real", "synthetic", "KID (floor)", "precision", "recall", "coverage"], rows)
    if found["too_few"]:
        names = ", ".join(
            f"{t['scope']} {t['group']} ({t['n_real']} real, {t['n_synthetic']} synthetic)" for t in found["too_few"]
        )
        section.text(f"Too few images for scores of their own: {names}.")
    section.pictures(
        *(
            (folder / "plots" / f"{n}.png", f"{n}, synthetic and real in its place")
            for n in ("kid", "recall", "precision", "coverage")
        )
    )
    p = found["pairs"]
    section.text(f"Pixel by pixel, medians over {p['n']} images at {p['resolution']} px", "heading")
    rows = [
        [
            n,
            f"{_num(s['value'])} ({_num(s['low'])} to {_num(s['high'])})",
            _num(p["floor"].get(n, {}).get("value")),
            _num(p["random"][n]["value"]),
        ]
        for n, s in p["nearest"].items()
    ]
    section.table(["", "nearest real image", "floor (real)", "random real image of the class"], rows)


def _audit(section: Section, folder: Path, plot: Path, real: Path | None) -> None:
    section.title = "Copies of training images"
    found = json.loads((folder / "audit.json").read_text())
    section.notes += manifest.split_warnings(found)
    if not found["passed"]:
        section.notes.append(f"{explanation(found)}.")
    if found.get("exact_copies"):
        section.notes.append(f"{len(found['exact_copies'])} of the synthetic images are files of the real set.")
    section.text(
        f"{found['copies']} of {found['n']:,} synthetic images are copies: {found['copy_rate']:.1%} "
        f"({found['low']:.1%} to {found['high']:.1%}). A copy is nearer to a training image than all but "
        f"{found['false_alarms']:.1%} of {found['held_out_images']:,} held-out real "
        "lesions are, flips, turns, crops and tints tried.",
        "verdict",
    )
    rows = [
        [dx, r["n"], r["copies"], f"{r['copy_rate']:.1%}", f"{r['low']:.1%} to {r['high']:.1%}"]
        for dx, r in found["per_class"].items()
    ]
    section.table(["class", "images", "copies", "rate", "95 % interval"], rows)
    section.pictures(
        (folder / "sheets" / "closest.png", "The closest pairs: synthetic left, training image right"),
        (folder / "plots" / "distances.png", "Distances; copies lie left of the dashed line"),
    )


def _filter(section: Section, folder: Path, plot: Path, real: Path | None) -> None:
    section.title = "Quality filter"
    found = json.loads((folder / "filter.json").read_text())
    section.text(
        f"{found['kept']:,} of {found['n']:,} images are kept by {found['scorer']}. "
        f"What that costs, by {found['extractor']}:"
    )
    cost = found["cost"]
    section.notes += found.get("warnings", [])
    if found["judged_by_its_scorer"]:
        section.notes.append(FLATTERED)
    names = [n for n in ("precision", "recall", "coverage", "vendi", "kid") if n in cost["kept"]]
    rows = [[n, *(_num(cost[part].get(n)) for part in ("all", "kept", "random"))] for n in names]
    section.table(["", "all", "kept", "random subset"], rows)
    shares = [
        [f"{scope}: {value}", f"{s['before']:.1%}", f"{s['after']:.1%}"]
        for scope, of in found["shares"].items()
        for value, s in of.items()
    ]
    section.table(["share of", "before", "after"], shares)
    section.pictures(
        (folder / "plots" / "quality.png", "Scores of kept and dropped images"),
        (folder / "sheets" / "kept_and_dropped.png", "The best kept images, then the worst dropped ones"),
    )


def _classifier(section: Section, folder: Path, plot: Path, real: Path | None) -> None:
    section.title = f"Classifier: {folder.name}"
    found = json.loads((folder / "results.json").read_text())
    section.notes += manifest.split_warnings(found)
    test = found["test"]
    section.text(
        f"Test split, {test['n']:,} real images: balanced accuracy {test['bma']:.3f}, accuracy {test['accuracy']:.3f}, "
        f"AUROC {test['macro_auroc']:.3f}, calibration error {test['calibration_error']:.3f}."
    )
    columns = ["recall", "precision", "f1", "specificity", "auroc", "sensitivity_at_95_specificity"]
    rows = [[c, v["n"], *(_num(v[n]) for n in columns)] for c, v in test["per_class"].items()]
    section.table(["class", "n", *(n.replace("_", " ") for n in columns)], rows)
    confusion = Path(f"{plot}_confusion.png")
    plots.confusions(confusion, found["classes"], {"test": test["confusion"]})
    section.pictures((confusion, "Confusion matrix, shares of the true class"))


def _study(section: Section, folder: Path, plot: Path, real: Path | None) -> None:
    section.title = "Do synthetic images help a classifier?"
    found = json.loads((folder / "study.json").read_text())
    section.notes += manifest.split_warnings(found)
    section.notes += found.get("notes", [])
    focus = found["focus_class"]
    length = f"{found['steps']:,} optimizer steps each" if found["steps"] else "the same number of epochs each"
    section.text(
        f"The same classifier, trained on each mixture with {len(found['seeds'])} seeds, {length}, measured on the "
        f"same {found['test_images']:,} real images of {found['test_lesions']:,} lesions. Intervals of 95 % over "
        f"lesions and seeds; p values corrected for the number of arms (Holm)."
    )
    for entry in found["arms"]:
        if "verdict" in entry:
            section.text(entry["verdict"], "verdict")
    head = ["arm", f"recall of {focus}", "BMA", "difference", "p", "p (McNemar)", "AUROC", "accuracy"]
    rows = []
    for e in found["arms"]:
        s, d = e["scores"], e.get("differences")
        difference = (
            f"{d['bma']['value']:+.3f} ({d['bma']['low']:+.3f} to {d['bma']['high']:+.3f})" if d else "baseline"
        )
        p = [_num(d["bma"]["p_holm"]), _num(e["mcnemar_p_holm"])] if d else ["", ""]
        rows.append(
            [
                e["arm"],
                *(_interval(s[n]) for n in (f"recall_{focus}", "bma")),
                difference,
                *p,
                *(_interval(s[n]) for n in ("macro_auroc", "accuracy")),
            ]
        )
    section.table(head, rows, main=[i for i, e in enumerate(found["arms"]) if e["arm"] == found["baseline"]])
    folder = folder / "plots"
    section.pictures((folder / "arms.png", "All arms"), (folder / "dose_response.png", "More synthetic images"))
    section.pictures((folder / "training_curves.png", "Validation during training"))
    section.pictures(*((p, "Change of recall by class") for p in sorted(folder.glob("recall_changes_*.png"))))
    section.pictures((folder / "confusion.png", "Confusion matrices, sums over seeds"))


# Who tells of which stage, in the order of the page.
WRITERS = {
    "data": _data,
    "training": _training,
    "generated": _generated,
    "scores": _scores,
    "audit": _audit,
    "filter": _filter,
    "classifier": _classifier,
    "study": _study,
}


def _grid(table: pd.DataFrame, folder: Path, path: Path, like: pd.DataFrame | None = None) -> None:
    """Images of every class in turn; with `like`, as many of each class as a grid of that table shows."""
    counts = subset(table if like is None else like, GRID, 0, "turns")["dx"].value_counts()
    chosen = pd.concat([subset(table[table["dx"] == dx], n, 0) for dx, n in counts.sort_index().items()])
    pictures = []
    for name in chosen["file_name"]:
        try:
            picture = Image.fromarray(preprocess.read_image(folder / name))
        except (preprocess.BadImage, OSError) as error:
            why = getattr(error, "strerror", None) or error
            raise InputError(
                f"{folder / name}, an image of {folder}, cannot be shown: {why}; restore it or drop its row"
            ) from error
        picture.thumbnail((96, 96))
        pictures.append(picture)
    contact_sheet(pictures, path, 8, list(chosen["dx"]))


def _data_uri(path: Path) -> str:
    """A picture inside the page; contact sheets of photographs as JPEG, which is a tenth of the size."""
    with Image.open(path) as image:
        picture = image.convert("RGB")
    if path.parent.name == "plots" and not path.stem.endswith(("images", "synthetic", "real")):
        return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _num(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _interval(s: dict) -> str:
    return f"{s['value']:.3f} ({s['low']:.3f}–{s['high']:.3f})"


def _with_floor(s: dict) -> str:
    return _num(s["value"]) + (f" ({_num(s['floor'])})" if s["floor"] is not None else "")
