"""`dermgen audit`: copies of training images, by nearest neighbours, calibrated on held-out lesions."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from accelerate import Accelerator
from PIL import Image

from dermgen import plots, statistics
from dermgen.blocks import for_terminal
from dermgen.config import InputError
from dermgen.data import comparable, manifest
from dermgen.data.duplicates import orient
from dermgen.data.image_files import read_pixels
from dermgen.data.prepared import Split
from dermgen.data.sheets import contact_sheet
from dermgen.evaluate import features, images
from dermgen.evaluate.neighbours import Neighbours, closest, thumbnails, use_faiss
from dermgen.evaluate.verdict import RARE, chance_of_alarms, judge
from dermgen.results.audit import PASSED, Audit, ExactCopy, MedianDistance, Rate
from dermgen.results.common import ImageSet, write
from dermgen.settings.evaluate import AuditConfig
from dermgen.training.processes import claim_together

MIN_THRESHOLD = 0.02  # blurred or recompressed copies come within this distance
MIN_HELD_OUT = 50  # fewer do not show how near an honest image can come


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Synthetic images and the real ones; arrays have one entry per synthetic image unless stated otherwise.

    Attributes:
        distance: to the nearest training image, NaN for an image without structure; `nearest` is the row of that image
            and `orientation` the orientation of the synthetic image in which the two match.
        held_out_distance: of the held-out images to their nearest training images.
        threshold: distance below which an image is a copy.
        equal: pairs of rows (synthetic, real) that are the same file.
        source_distance: to the real image that it was made from, NaN without one.
    """

    real: pd.DataFrame
    train: pd.DataFrame
    held_out: pd.DataFrame
    synthetic: pd.DataFrame
    distance: np.ndarray
    nearest: np.ndarray
    orientation: np.ndarray
    held_out_distance: np.ndarray
    threshold: float
    equal: list[tuple[int, int]]
    source_distance: np.ndarray

    @property
    def exact(self) -> np.ndarray:
        return np.isin(np.arange(len(self.synthetic)), [i for i, _ in self.equal])

    @property
    def copies(self) -> np.ndarray:
        return (self.distance < self.threshold) | self.exact

    def table(self) -> pd.DataFrame:
        """A row for each synthetic image; an empty cell where a distance is NaN."""
        return pd.DataFrame(
            {
                "image_id": self.synthetic["image_id"],
                "nearest_train_id": self.train["image_id"].to_numpy()[self.nearest],
                "distance": self.distance.round(4),
                "copy": np.where(self.copies, "true", "false"),
                "source_distance": self.source_distance.round(4),
            }
        )


def audit(config: AuditConfig) -> Audit:
    """Write `audit.csv`, `audit.json`, a sheet of the closest pairs and the manifest view.

    Raises:
        InputError: without a train split, or without enough held-out real images to calibrate on.
    """
    real, synthetic = images.read(config.real, False), images.read(config.synthetic, True)
    train = real[real["split"] == "train"].reset_index(drop=True)
    held_out = real[real["split"].isin(["val", "test"])].reset_index(drop=True)
    if train.empty or len(held_out) < MIN_HELD_OUT:
        raise InputError(
            f"{config.real} has {len(train)} training images and {len(held_out)} in val and test; an audit compares "
            f"with the former and needs at least {MIN_HELD_OUT} of the latter to distinguish copies from similar images"
        )
    folder = Path(config.output_dir)
    accelerator = Accelerator()
    extractor = features.load(config.extractor, accelerator.device)
    use_index = use_faiss(config.index, len(train))
    claim_together(accelerator, folder, config)
    neighbours = Neighbours(
        train, extractor, accelerator, config.candidates, use_index, config.batch_size, config.cache_dir
    )
    distance, nearest, orientation = neighbours.nearest(synthetic)
    if np.isnan(distance).all():
        raise InputError(
            f"none of the {len(synthetic)} images in {config.synthetic} has any structure: are they blank?"
        )
    held_out_distance, _, _ = neighbours.nearest(held_out)
    compared = Comparison(
        real=real,
        train=train,
        held_out=held_out,
        synthetic=synthetic,
        distance=distance,
        nearest=nearest,
        orientation=orientation,
        held_out_distance=held_out_distance,
        threshold=_calibrated(held_out_distance, held_out, config),
        equal=comparable.equal_files(real, synthetic),
        source_distance=_source_distance(synthetic, real),
    )
    result = _judged(compared, extractor, config)
    if accelerator.is_main_process:
        _write(compared, result, Path(config.synthetic), folder)
        print(for_terminal(result.blocks(folder)))
    accelerator.wait_for_everyone()
    return result


def _judged(compared: Comparison, extractor: features.Extractor, config: AuditConfig) -> Audit:
    """What `audit.json` holds."""
    synthetic, real, distance, copies = compared.synthetic, compared.real, compared.distance, compared.copies
    certain = int((compared.exact | (distance < MIN_THRESHOLD)).sum())
    lesions = compared.held_out["group"][~np.isnan(compared.held_out_distance)]
    chance = chance_of_alarms(config.false_alarms, len(lesions), lesions.nunique())
    verdict = judge(int(copies.sum()), certain, len(copies), chance, config.max_copy_rate)
    medians = (float(np.nanmedian(values)) for values in (distance, compared.held_out_distance))
    source_distance = compared.source_distance
    return Audit(
        extractor=extractor.name,
        extractor_revision=extractor.revision,
        threshold=compared.threshold,
        false_alarms=float(chance.mean()),
        most_false_alarms=float(chance.isf(RARE)),
        featureless=int(np.isnan(distance).sum()),
        train_images=len(compared.train),
        held_out_images=len(compared.held_out),
        median_distance=MedianDistance(**dict(zip(("synthetic", "held_out"), medians, strict=True))),
        **_rate(copies),
        per_class={dx: Rate(**_rate(copies[synthetic["dx"] == dx])) for dx in sorted(set(synthetic["dx"])) if dx},
        max_copy_rate=config.max_copy_rate,
        certain_copies=certain,
        exact_copies=[
            ExactCopy(image_id=synthetic["image_id"][i], real_id=real["image_id"][j], split=real["split"][j])
            for i, j in compared.equal
        ],
        verdict=verdict,
        passed=verdict == PASSED,
        drawn_over_real=int((synthetic.get("source_image_id", pd.Series(dtype=str)).fillna("") != "").sum()),
        unknown_sources=_unknown_sources(synthetic, real),
        median_source_distance=None if np.isnan(source_distance).all() else float(np.nanmedian(source_distance)),
        **Split.of(config.real).to_json(),
        images=ImageSet(**manifest.identity(synthetic)),
        train=manifest.identity(compared.train)["sha256"],
        real=images.facts(config.real),
        copied=sorted(set(synthetic["sha256"][copies])),
    )


def _write(compared: Comparison, result: Audit, synthetic_dir: Path, folder: Path) -> None:
    """The files of an audit's folder."""
    table = compared.table()
    manifest.write_csv(table, folder / "audit.csv")
    write(result, folder)
    view = compared.synthetic.assign(
        nearest_train_id=table["nearest_train_id"], nearest_train_distance=table["distance"], copy=table["copy"]
    )
    manifest.write_view(view, synthetic_dir, folder)
    _sheet(table, compared, folder / "sheets" / "closest.png")
    groups = {
        name: values[~np.isnan(values)]
        for name, values in (("synthetic", compared.distance), ("held-out real", compared.held_out_distance))
    }
    title, label = "Distance to the nearest training image", "1 - correlation of aligned fine structure"
    plots.histogram(folder / "plots" / "distances.png", title, label, groups, compared.threshold)


def _source_distance(synthetic: pd.DataFrame, real: pd.DataFrame) -> np.ndarray:
    """Distance of each image from the real one that it was made from, (N,); NaN without one."""
    row_of = {image_id: i for i, image_id in enumerate(real["image_id"])}
    named = synthetic.get("source_image_id", pd.Series("", index=synthetic.index))
    source = np.array([row_of.get(name, -1) for name in named])
    with_source = np.flatnonzero(source >= 0)
    distance = np.full(len(synthetic), np.nan)
    if len(with_source):
        used, candidate = np.unique(source[with_source], return_inverse=True)
        queries, base = thumbnails(synthetic.iloc[with_source]), thumbnails(real.iloc[used])
        no_turn = np.zeros((len(with_source), 1), int)
        distance[with_source], _, _ = closest(queries, base, candidate[:, None], no_turn)
    return distance


def _unknown_sources(synthetic: pd.DataFrame, real: pd.DataFrame) -> list[str]:
    """Ids of the photographs that synthetic images were made from, if they are not among the real ones."""
    named = set(synthetic.get("source_image_id", pd.Series(dtype=str)).fillna("")) - {""}
    return sorted(named - set(real["image_id"]))


def _calibrated(distances: np.ndarray, held_out: pd.DataFrame, config: AuditConfig) -> float:
    """The distance below which the requested share of held-out images lies."""
    threshold = float(np.nanquantile(distances, config.false_alarms, method="lower"))
    if threshold < MIN_THRESHOLD:
        names = ", ".join(held_out["image_id"][distances < MIN_THRESHOLD].head(3))
        raise InputError(
            f"held-out images of {config.real} are copies of training images themselves (for example {names}), so "
            "copies cannot be detected: split it with `dermgen prepare`, which keeps near-duplicates in one split, "
            "or raise --false_alarms"
        )
    return threshold


def _rate(copies: np.ndarray) -> dict:
    copies = np.asarray(copies)
    low, high = statistics.wilson(int(copies.sum()), len(copies))
    return {"n": len(copies), "copies": int(copies.sum()), "copy_rate": float(copies.mean()), "low": low, "high": high}


def _sheet(table: pd.DataFrame, compared: Comparison, path: Path) -> None:
    """The closest pairs: synthetic image on the left, in the orientation that matches, training image on the right."""
    synthetic, train, nearest = compared.synthetic, compared.train, compared.nearest
    pictures, captions = [], []
    for i in np.argsort(table["distance"].to_numpy(), kind="stable")[:24]:
        mark = " COPY" if table["copy"][i] == "true" else ""
        for name, k, text in (
            (synthetic["path"][i], compared.orientation[i], f"{table['distance'][i]:.2f}{mark}"),
            (train["path"][nearest[i]], 0, train["image_id"][nearest[i]]),
        ):
            picture = Image.fromarray(orient(read_pixels(name), k))
            picture.thumbnail((128, 128))
            pictures.append(picture.resize((128, round(128 * picture.height / picture.width))))
            captions.append(text)
    contact_sheet(pictures, path, 8, captions)
