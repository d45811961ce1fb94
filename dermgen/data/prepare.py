"""`dermgen prepare`: from what is on a user's disk to a manifest folder, with its audit and its rejects."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from PIL import Image

from dermgen.blocks import Picture, Text, counted, for_terminal
from dermgen.config import InputError
from dermgen.data import balance, captions, duplicates, manifest, preprocess, preview, sources, splits
from dermgen.data.groups import any_known, find_groups, require_groups
from dermgen.data.names import file_stems
from dermgen.data.preparation_report import blocks
from dermgen.data.prepared import AS_GIVEN, BY_GROUPS, BY_IMAGE, NO_GROUPS, Prepared, Split, SplitAudit
from dermgen.data.processing import ODD_MASKS, Steps, process_all
from dermgen.data.sheets import contact_sheet
from dermgen.data.subsets import choose
from dermgen.job import claim_folder
from dermgen.labels import Taxonomy
from dermgen.settings.prepare import PrepareConfig

MAX_REJECTED = 0.05


def prepare(config: PrepareConfig) -> Path:
    """Write the manifest folder; images that an interrupted run has written are kept. With `preview` only a sheet is.

    Raises:
        InputError: for a folder prepared with other settings, more than 5 % bad files, or too few groups to split.
    """
    folder = Path(config.output_dir)
    if config.preview is not None:
        return _preview(config, folder)
    _claim(folder, config)
    source, has_groups, taken = _with_groups(_read_usable(config, folder), config)
    source.table["stem"] = file_stems(source.table["image_id"])
    known = splits.join_groups(source.table["lesion_id"], source.table["patient_id"])
    _check_kept_split(source.table, known, config)
    _split(source.table, known, config, taken)  # what no splitting can repair is reported before hours of work
    results = process_all(source.table, Steps.of(config), folder, config.num_workers)
    rejected = _reject(source, results, folder)
    good = [i for i, r in enumerate(results) if not r["reason"]]
    raw = source.table.iloc[good].reset_index(drop=True)
    table, results = raw.copy(), [results[i] for i in good]

    known = splits.join_groups(table["lesion_id"], table["patient_id"])
    pairs = _near_duplicates(results, known) if config.find_duplicates else []
    groups = splits.join_groups(known, pairs=pairs)
    table["split"] = _split(table, groups, config, taken)
    _fill_columns(table, results, source.taxonomy, config)
    lines = [_lint(table, config.tokenizer)] if config.tokenizer else []
    unused = ["path", "mask_path", "stem", *(["dx_type"] if (table["dx_type"] == "").all() else [])]
    manifest.write(table.drop(columns=unused), folder)
    _before_after(raw, table, folder, config)
    crossing = splits.crossing_groups(table["split"], groups)
    prepared = Prepared(
        taxonomy=source.taxonomy.name,
        leaky=config.allow_leaky_split,
        split_method=_split_method(config, has_groups),
        audit=SplitAudit(
            images=len(table),
            groups=int(groups.max()) + 1,
            near_duplicate_pairs=len(pairs),
            groups_joined=int(known.max() - groups.max()),
            images_of_unknown_group=int(((table["lesion_id"] == "") & (table["patient_id"] == "")).sum()),
            groups_crossing_splits=crossing if has_groups or crossing else None,
            images_per_split={name: int((table["split"] == name).sum()) for name in manifest.SPLITS},
            class_off_by=_class_off_by(table, config),
            differences=balance.compare(table, _dealt(groups, config), config.seed),
            images_per_class={c: n for c in source.taxonomy.codes if (n := int((table["dx"] == c).sum()))},
        ),
        rejected=rejected["reason"].value_counts().to_dict(),
        split_kept=config.keep_split,
        partial=config.partial,
        notes=list(source.notes),
        read_as_unknown=source.unclear or {},
        masks=dict(Counter(r["mask"] for r in results)),
        odd_masks=[i for i, r in zip(table["image_id"], results, strict=True) if r["mask"] in ODD_MASKS],
        converted=dict(Counter(note for r in results for note in r["notes"])),
        crops=pd.Series([r["crop"] for r in results]).value_counts().to_dict(),
        near_duplicates=[[table["image_id"][i], table["image_id"][j]] for i, j in pairs],
    )
    prepared.write(folder)
    _print_report(prepared, table, folder, lines)
    return folder


def _preview(config: PrepareConfig, folder: Path) -> Path:
    """The sheet beside the folder, which is not made."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".preview-", dir=folder.parent) as copies:  # of a Hub data set
        source = _read_source(config, Path(copies))
        return preview.write(source, config, folder.parent / f"{folder.name}_preview.png")


def _print_report(prepared: Prepared, table: pd.DataFrame, folder: Path, lines: Sequence[str]) -> None:
    report = blocks(prepared, table, Split.of(folder))
    sheet = Picture(folder / "sheets" / "before_after.png", "Before and after", photographs=True)
    print(for_terminal([*report, *map(Text, lines), sheet, Text(f"Written to {folder}")]))


def _claim(folder: Path, config: PrepareConfig) -> None:
    """Make the folder, or check that it is this job's own and not split by an earlier version."""
    claim_folder(folder, config, anew=not (folder / "metadata.csv").exists())
    if Prepared.is_one(folder) and Prepared.read(folder).split_method is None:
        raise InputError(
            f"{folder} was split by an earlier version, and would be split otherwise now while runs may stand on it: "
            "choose a new output_dir"
        )
    for name in ("images", "masks"):
        (folder / name).mkdir(exist_ok=True)


def _read_usable(config: PrepareConfig, folder: Path) -> sources.RawTable:
    """The raw table; an error if nothing of it can be used, much is missing, or a split to keep is not there."""
    source = _read_source(config, folder)
    _check_whole(source, config, folder)
    if config.keep_split and "split" not in source.table:
        raise InputError(f"--keep_split: {config.data_dir} has no train and test folders above its classes")
    return source


def _reject(source: sources.RawTable, results: Sequence[dict], folder: Path) -> pd.DataFrame:
    """Write `rejected.csv`, and return it; an error if too many of the files are bad."""
    refused = [i for i, r in enumerate(results) if r["reason"]]
    rejected = source.table.iloc[refused][["image_id", "path"]].assign(reason=[results[i]["reason"] for i in refused])
    rejected = pd.concat([source.rejected, rejected], ignore_index=True)
    manifest.write_csv(rejected, folder / "rejected.csv")
    bad = rejected["reason"][~rejected["reason"].str.startswith(sources.NOT_BAD)]
    total = len(source.table) + len(source.rejected) - len(rejected) + len(bad)
    if len(bad) > MAX_REJECTED * total:
        which = f"of {counted(total, 'file')}"
        raise InputError(
            f"{counted(len(bad), f'{which} is', f'{which} are')} bad (more than {MAX_REJECTED:.0%}), most often: "
            f"{bad.value_counts().index[0]}; see {folder / 'rejected.csv'}, fix the data and run again"
        )
    return rejected


def _near_duplicates(results: Sequence[dict], groups: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of rows of different groups that show the same photograph."""
    thumbnails, hashes = (np.stack([r[name] for r in results]) for name in ("thumbnail", "hashes"))
    return duplicates.find_pairs(thumbnails, hashes, groups)


def _fill_columns(table: pd.DataFrame, results: Sequence[dict], taxonomy: Taxonomy, config: PrepareConfig) -> None:
    """Add captions, licences and the names of the written files."""
    table["caption"] = captions.captions_of(
        table, config.caption_template, taxonomy, config.caption_synonyms, config.seed
    )
    table["license"] = [given or config.license or "" for given in table["license"]]
    table["file_name"] = [f"images/{stem}.png" for stem in table["stem"]]
    table["mask_file_name"] = [
        f"masks/{stem}.png" if r["mask"] in ("used", "full") else ""
        for stem, r in zip(table["stem"], results, strict=True)
    ]
    table["synthetic"] = "false"


def _with_val(table: pd.DataFrame, groups: np.ndarray, config: PrepareConfig) -> np.ndarray:
    """The split that the folder came with; where it has no val, whole groups of train become it."""
    kept = table["split"].to_numpy()
    if "val" in kept or not (train := np.flatnonzero(kept == "train")).size:
        return kept
    share = _fractions(config)["val"]
    dealt = splits.split_groups(table["dx"].iloc[train], groups[train], {"train": 1 - share, "val": share}, config.seed)
    kept = kept.copy()
    kept[train] = dealt
    return kept


def _check_whole(source: sources.RawTable, config: PrepareConfig, folder: Path) -> None:
    """Refuse a download that misses many of its images, unless that is meant."""
    missing = source.rejected[source.rejected["reason"] == sources.NO_FILE]
    total = len(source.table) + len(missing)
    if len(missing) > MAX_REJECTED * total and not config.partial:
        manifest.write_csv(source.rejected, folder / "rejected.csv")
        which = f"of the {counted(total, 'image')} in the table"
        raise InputError(
            f"{counted(len(missing), f'{which} is', f'{which} are')} missing from {config.data_dir or config.source} "
            f"(such as {missing['image_id'].iloc[0]}; all in {folder / 'rejected.csv'}): complete the download, or "
            "give --partial if a part is meant"
        )


def _check_kept_split(table: pd.DataFrame, known: np.ndarray, config: PrepareConfig) -> None:
    """Bring the words of the split that the data comes with to ours; refuse others, and a split that leaks."""
    if not config.keep_split:
        return
    if odd := sorted({word for word in table["split"] if word.lower() not in sources.SPLIT_WORDS}):
        raise InputError(
            f"--keep_split: the column 'split' must say train, val or test for each image, but holds {odd[0]!r}: "
            "correct it, or leave out --keep_split"
        )
    table["split"] = [sources.SPLIT_WORDS[word.lower()] for word in table["split"]]
    crossing = splits.crossing_groups(table["split"], known)
    if crossing and not config.allow_leaky_split:
        raise InputError(
            f"--keep_split: {counted(crossing, 'lesion or patient is', 'lesions or patients are')} in more than one "
            "split, which makes every score worthless: leave out --keep_split, or give --allow_leaky_split to mark the "
            "results as LEAKY"
        )


def _with_groups(source: sources.RawTable, config: PrepareConfig) -> tuple[sources.RawTable, bool, list[str]]:
    """The source with its lesions and patients in the manifest's columns, whether any is known, and where from."""
    where = str(config.data_dir or config.source)
    table, notes = find_groups(source.table, config.group_column, where, config.no_groups)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    known = any_known(table)
    if not config.allow_leaky_split:
        require_groups(table, config.no_groups, where)
    columns = [*sources.RAW_COLUMNS, *(["split"] if config.keep_split else [])]
    return replace(source, table=table[columns].copy()), known, notes


def _split_method(config: PrepareConfig, has_groups: bool) -> str:
    if config.allow_leaky_split:
        return BY_IMAGE
    if not has_groups:
        return NO_GROUPS
    return AS_GIVEN if config.keep_split else BY_GROUPS


def _dealt(groups: np.ndarray, config: PrepareConfig) -> np.ndarray:
    """What is dealt to the splits as one: a group, or on demand each image."""
    return np.arange(len(groups)) if config.allow_leaky_split else groups


def _fractions(config: PrepareConfig) -> dict[str, float]:
    return dict(zip(manifest.SPLITS, config.split or (0.7, 0.15, 0.15), strict=True))


def _split(table: pd.DataFrame, groups: np.ndarray, config: PrepareConfig, taken: list[str]) -> np.ndarray:
    if config.keep_split:
        return _with_val(table, groups, config)
    dealt = splits.split_groups(table["dx"], _dealt(groups, config), _fractions(config), config.seed)
    splits.check_shares(dealt, groups, _fractions(config), taken)
    return dealt


def _class_off_by(table: pd.DataFrame, config: PrepareConfig) -> dict[str, float]:
    """Of each class the largest difference between the share that a split has of it and the share asked for."""
    shares = pd.crosstab(table["dx"], table["split"], normalize="index").reindex(columns=manifest.SPLITS, fill_value=0)
    off = (shares - pd.Series(_fractions(config))).abs().max(axis=1)
    return {dx: round(float(value), 6) for dx, value in off.items()}


def _read_source(config: PrepareConfig, folder: Path) -> sources.RawTable:
    """The raw table; an error if nothing of it can be used. The images of a Hub data set are copied to the folder."""
    if config.source in sources.READERS:
        source = sources.READERS[config.source](Path(config.data_dir))
    else:
        columns = (config.image_column, config.label_column, config.group_column)
        source = sources.hub_dataset(config.source, folder / ".download", *columns, config.hub_split)
    if source.table.empty:
        reasons = source.rejected["reason"].value_counts()
        why = f"; most often: {reasons.index[0]}" if len(reasons) else ""
        raise InputError(f"no usable image in {config.data_dir or config.source}{why}")
    return source


def _lint(table: pd.DataFrame, tokenizer_name: str) -> str:
    tokenizer = captions.load_tokenizer(tokenizer_name)
    return captions.lint_message(captions.lint_table(table, tokenizer), len(table), tokenizer.model_max_length)


def _before_after(raw: pd.DataFrame, table: pd.DataFrame, folder: Path, config: PrepareConfig) -> None:
    chosen = choose(table["image_id"], 16, config.seed, table["lesion_id"], table["dx"], "turns")
    images, names = [], []
    for i in chosen:
        photo, _ = preprocess.read_photo(Path(raw["path"][i]), config.transparency, config.bit_depth)
        images += [Image.fromarray(photo), Image.open(folder / table["file_name"][i])]
        names += [f"{table['image_id'][i]}", f"{table['dx'][i]}, {table['split'][i]}"]
    contact_sheet(images, folder / "sheets" / "before_after.png", 8, names, largest=160)
