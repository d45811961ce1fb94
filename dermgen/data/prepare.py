"""`dermgen prepare`: from what is on a user's disk to a manifest folder, with its audit and its rejects."""

import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from dermgen.config import InputError, claim_folder
from dermgen.data import captions, duplicates, manifest, preprocess, sources, splits
from dermgen.data.names import file_stems
from dermgen.data.sheets import contact_sheet
from dermgen.settings.prepare import PrepareConfig

# What may differ between the first run and one that goes on with it.
_FREE_SETTINGS = ("num_workers", "data_dir", "output_dir", "tokenizer")
MAX_REJECTED = 0.05


def prepare(config: PrepareConfig) -> Path:
    """Write the manifest folder; images that an interrupted run has written are kept.

    Raises:
        InputError: for a folder prepared with other settings, more than 5 % bad files, or too few groups to split.
    """
    folder = Path(config.output_dir)
    claim_folder(folder, config, _FREE_SETTINGS)
    for name in ("images", "masks"):
        (folder / name).mkdir(exist_ok=True)
    source = _read_source(config, folder)
    if source.table.empty:
        reasons = source.rejected["reason"].value_counts()
        why = f"; most often: {reasons.index[0]}" if len(reasons) else ""
        raise InputError(f"no usable image in {config.data_dir or config.source}{why}")
    source.table["stem"] = file_stems(source.table["image_id"])
    results = _process_all(source.table, config, folder)
    bad = [i for i, r in enumerate(results) if r["reason"]]
    rejected = source.table.iloc[bad][["image_id", "path"]].assign(reason=[results[i]["reason"] for i in bad])
    rejected = pd.concat([source.rejected, rejected], ignore_index=True)
    manifest.write_csv(rejected, folder / "rejected.csv")
    total = len(source.table) + len(source.rejected)
    if len(rejected) > MAX_REJECTED * total:
        raise InputError(
            f"{len(rejected)} of {total} files are bad (more than {MAX_REJECTED:.0%}), most often: "
            f"{rejected['reason'].value_counts().index[0]}; see {folder / 'rejected.csv'}, mend the data and run again"
        )
    good = [i for i, r in enumerate(results) if not r["reason"]]
    table = source.table.iloc[good].reset_index(drop=True)
    results = [results[i] for i in good]

    known = splits.join_groups(table["lesion_id"], table["patient_id"])
    pairs = []
    if config.find_duplicates:
        thumbnails, hashes = (np.stack([r[name] for r in results]) for name in ("thumbnail", "hashes"))
        pairs = duplicates.find_pairs(thumbnails, hashes, known)
    groups = splits.join_groups(known, pairs=pairs)
    fractions = dict(zip(manifest.SPLITS, config.split or (0.7, 0.15, 0.15), strict=True))
    by = np.arange(len(table)) if config.allow_leaky_split else groups
    table["split"] = splits.split_groups(table["dx"], by, fractions, config.seed)
    audit = {
        "images": len(table),
        "groups": int(groups.max()) + 1,
        "near_duplicate_pairs": len(pairs),
        "groups_joined": int(known.max() - groups.max()),
        "groups_crossing_splits": splits.crossing_groups(table["split"], groups),
        "images_per_split": {name: int((table["split"] == name).sum()) for name in manifest.SPLITS},
        "images_per_class": {
            c: int((table["dx"] == c).sum()) for c in source.taxonomy.codes if (table["dx"] == c).any()
        },
    }
    written = captions.compile_captions(
        table, config.caption_template, source.taxonomy, config.caption_synonyms, config.seed
    )
    table["caption"] = [given or made for given, made in zip(table["caption"], written, strict=True)]
    table["license"] = [given or config.license or "" for given in table["license"]]
    table["file_name"] = [f"images/{stem}.png" for stem in table["stem"]]
    table["mask_file_name"] = [
        f"masks/{stem}.png" if r["has_mask"] else "" for stem, r in zip(table["stem"], results, strict=True)
    ]
    table["synthetic"] = "false"
    joined = [[table["image_id"][i], table["image_id"][j]] for i, j in pairs]
    lines = [_lint(table, config.tokenizer)] if config.tokenizer else []
    manifest.write(table.drop(columns=["path", "mask_path", "stem"]), folder)
    _before_after(source.table.iloc[good].reset_index(drop=True), table, folder, config.seed)
    facts = {
        "taxonomy": source.taxonomy.name,
        "leaky": config.allow_leaky_split,
        "audit": audit,
        "rejected": rejected["reason"].value_counts().to_dict(),
        "crops": pd.Series([r["crop"] for r in results]).value_counts().to_dict(),
        "near_duplicates": joined,
    }
    (folder / "prepare.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(_report(facts, folder, lines))
    return folder


def process_image(
    image: np.ndarray, mask: np.ndarray | None, config: PrepareConfig
) -> tuple[np.ndarray, np.ndarray | None, str]:
    """One image through the switched-on steps: the square picture, its mask, and which crop it got."""
    height, width = image.shape[:2]
    crop, box = "center", preprocess.center_box(height, width)
    if config.crop == "lesion":
        outline, crop = (mask, "mask") if mask is not None else (preprocess.segment_lesion(image), "segmentation")
        if outline is not None and (outline > 127).any():
            box = preprocess.lesion_box(outline, config.crop_margin)
        else:
            crop = "center, no lesion found"
    top, left, side = box
    image = image[top : top + side, left : left + side]
    if config.remove_hair:
        image = preprocess.remove_hair(image)
    if config.color_constancy:
        image = preprocess.shades_of_grey(image)
    image = preprocess.resize(image, config.resolution)
    if mask is not None:
        mask = preprocess.resize_mask(mask[top : top + side, left : left + side], config.resolution)
    return image, mask, crop


def _read_source(config: PrepareConfig, folder: Path) -> sources.Source:
    if config.source in sources.READERS:
        return sources.READERS[config.source](Path(config.data_dir))
    download_dir = folder / ".download"
    return sources.hub_dataset(
        config.source, download_dir, config.image_column, config.label_column, config.group_column, config.hub_split
    )


def _process_all(table: pd.DataFrame, config: PrepareConfig, folder: Path) -> list[dict]:
    """Prepare every file on all cores; a log of finished files lets an interrupted run go on."""
    log = folder / ".finished.jsonl"
    finished = {}
    if log.exists():
        lines = [line for line in log.read_text().splitlines() if line.endswith("}")]
        finished = {note["image_id"]: note for note in map(json.loads, lines)}
    jobs = [(row, finished.get(row["image_id"]), config, folder) for row in table.to_dict("records")]
    results = []
    with (
        _workers(config.num_workers) as run_all,
        open(log, "a") as file,
        tqdm(total=len(jobs), desc="images", unit="image", dynamic_ncols=True) as progress,
    ):
        for (row, *_), result in zip(jobs, run_all(_process_file, jobs), strict=True):
            results.append(result)
            progress.update()
            if not result["reason"] and row["image_id"] not in finished:
                note = {"image_id": row["image_id"], "crop": result["crop"], "has_mask": result["has_mask"]}
                file.write(json.dumps(note) + "\n")
    return results


@contextmanager
def _workers(number: int) -> Iterator[Callable]:
    """A `map` over fresh processes: forked ones would inherit locks that threads of this one hold. One works here."""
    if number == 1:
        yield map
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(number, spawn, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        yield partial(pool.map, chunksize=16)


def _process_file(job: tuple[dict, dict | None, PrepareConfig, Path]) -> dict:
    """Prepare one file unless its output is there and newer; what comes back is small."""
    row, kept, config, folder = job
    path, mask_path = row["path"], row["mask_path"]
    target, mask_target = (folder / kind / f"{row['stem']}.png" for kind in ("images", "masks"))
    try:
        if kept and target.exists() and target.stat().st_mtime > Path(path).stat().st_mtime:
            image = preprocess.read_image(target)
        else:
            image = preprocess.read_image(Path(path))
            mask = _read_mask(Path(mask_path), image.shape) if mask_path else None
            image, mask, crop = process_image(image, mask, config)
            if mask is not None:
                _write_png(mask_target, mask)
            _write_png(target, image)
            kept = {"crop": crop, "has_mask": mask is not None}
    except preprocess.BadImage as error:
        return {"reason": str(error)}
    thumbnail, hashes = duplicates.fingerprint(Image.fromarray(image))
    return {"reason": "", "thumbnail": thumbnail, "hashes": hashes, "crop": kept["crop"], "has_mask": kept["has_mask"]}


def _read_mask(path: Path, shape: tuple) -> np.ndarray:
    mask = preprocess.read_image(path)[..., 0]
    if mask.shape != shape[:2]:
        raise preprocess.BadImage(f"mask is {mask.shape[1]} x {mask.shape[0]}, image is {shape[1]} x {shape[0]}")
    return mask


def _write_png(path: Path, image: np.ndarray) -> None:
    """Write whole or not at all; nothing of the source's metadata comes along."""
    data = cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
    unfinished = path.with_name(f".{path.name}.partial")
    unfinished.write_bytes(data)
    os.replace(unfinished, path)


def _lint(table: pd.DataFrame, tokenizer_name: str) -> str:
    tokenizer = captions.load_tokenizer(tokenizer_name)
    return captions.lint_message(captions.lint_table(table, tokenizer), len(table), tokenizer.model_max_length)


def _before_after(raw: pd.DataFrame, table: pd.DataFrame, folder: Path, seed: int) -> None:
    chosen = np.random.default_rng(seed).permutation(len(table))[:16]
    images, names = [], []
    for i in sorted(chosen):
        before = Image.fromarray(preprocess.read_image(Path(raw["path"][i])))
        before.thumbnail((160, 160))
        after = Image.open(folder / table["file_name"][i])
        after.thumbnail((160, 160))
        images += [before, after]
        names += [f"{table['image_id'][i]}", f"{table['dx'][i]}, {table['split'][i]}"]
    (folder / "sheets").mkdir(exist_ok=True)
    contact_sheet(images, folder / "sheets" / "before_after.png", 8, names)


def _report(facts: dict, folder: Path, lines: list[str]) -> str:
    audit, rejected = facts["audit"], facts["rejected"]
    text = [
        f"{audit['images']} images of {audit['groups']} groups (lesions, patients and near-duplicates joined)",
        "  classes    " + ", ".join(f"{c} {n}" for c, n in audit["images_per_class"].items()),
        "  splits     " + ", ".join(f"{s} {n}" for s, n in audit["images_per_split"].items()),
        "  near-duplicates under different ids: "
        f"{audit['near_duplicate_pairs']} pairs, {audit['groups_joined']} groups joined",
        f"  groups crossing splits: {audit['groups_crossing_splits']}" + ("   LEAKY" if facts["leaky"] else ""),
        "  rejected   " + (", ".join(f"{n} x {reason}" for reason, n in rejected.items()) or "none"),
        *(f"  {line}" for line in lines),
        f"Written to {folder}; before and after: {folder / 'sheets' / 'before_after.png'}",
    ]
    if facts["leaky"]:
        print("warning: the split is by image; scores on it are LEAKY and will be marked so", file=sys.stderr)
    return "\n".join(text)
