"""`dermgen publish dataset`: a synthetic set, or a real and synthetic one, as a data set repository."""

import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from huggingface_hub import DatasetCardData

from dermgen import __version__
from dermgen.classify.mixture import choose
from dermgen.config import InputError
from dermgen.data import manifest
from dermgen.data.cache import hash_file, key_of
from dermgen.data.generated import Generated
from dermgen.data.image_files import check_readable
from dermgen.data.origins import License, parse_license
from dermgen.data.set_facts import SetFacts, combined_license
from dermgen.data.trained_on import TrainedOn
from dermgen.labels import from_labels
from dermgen.publish import cards, gates, shards
from dermgen.publish.evidence import Evidence, gather
from dermgen.publish.hiding import patient_ids, without_private
from dermgen.publish.privacy import without_paths, without_paths_in
from dermgen.publish.publication import begin, own_license, write_picture
from dermgen.results.common import is_one, read
from dermgen.results.filtered import Filtered
from dermgen.settings.publish import PublishDatasetConfig
from dermgen.training.run_record import RunRecord

SHOWN = 32


@dataclass(frozen=True)
class Contents:
    """What a data set repository holds.

    Attributes:
        synthetic: rows of the synthetic images, with `path` and `sha256`.
        real: rows of the real images; None without any.
        generated: how the synthetic images came about.
        data: facts of the real images, of what the model was trained on, and of whatever else binds the images.
        copies_left_out: number of images that an audit calls copies.
    """

    synthetic: pd.DataFrame
    real: pd.DataFrame | None
    generated: Generated
    data: list[SetFacts]
    copies_left_out: int

    @property
    def rows(self) -> pd.DataFrame:
        """Of all images."""
        parts = [self.synthetic] if self.real is None else [self.real, self.synthetic]
        return pd.concat(parts, ignore_index=True)

    @property
    def published(self) -> frozenset[str]:
        """SHA-256 of the synthetic images."""
        return frozenset(self.synthetic["sha256"])

    @property
    def trained_on(self) -> TrainedOn:
        """What the model of the synthetic images was trained on."""
        return self.generated.trained_on


def publish_dataset(config: PublishDatasetConfig) -> str | None:
    """Send a set to the Hub; its address, None after a dry run.

    Raises:
        InputError: for files that are missing, real images without a licence that allows it, a failed check, or if the
            Hub refuses.
    """
    table = _synthetic(config)
    evidence = gather(config.evidence or [], hashes=frozenset(table["sha256"]))
    for line in evidence.left_out:
        print(f"left out {line}")
    contents = _choose(table, evidence, config)
    data_license = combined_license(contents.data, config.data_license)
    stops = [
        *gates.memorization(evidence, _how_to_audit(config), contents.trained_on.sha256, contents.published),
        *gates.split(evidence.leaky or any(entry.leaky for entry in contents.data)),
        *gates.licenses(data_license, own_license(config, None)),
    ]
    publication = begin(config, "dataset", stops)
    rows = shards.with_values(without_private(contents.rows, contents.data, evidence))
    tar = shards.in_tar(rows, config.format)
    shards.write(rows, publication.files / "data", tar, config.max_shard_size * 2**20)
    shown = contents.synthetic[~contents.synthetic["sha256"].isin(evidence.copied)]
    picture = write_picture(shown, publication.files, SHOWN, 192)
    sha256 = key_of(*sorted(rows["sha256"]))
    publication.mark(sha256, images=len(rows))
    repo_id, license = publication.target.repo_id, own_license(config, data_license)
    title = repo_id.split("/")[-1]
    of_set = {
        "repo_id": repo_id,
        "title": title,
        "picture": picture,
        "images": _images(rows, config, tar),
        "provenance": _provenance(contents.generated, sha256),
        "card_data": _metadata(rows, title, license, tar).to_yaml(),
    }

    def card(stops: Sequence[gates.Stop]) -> str:
        facts = _card_facts(contents, license, evidence, stops, config)
        return cards.render("synthetic_dataset.md", facts | of_set, "dataset", config.card_template)

    folders = [config.data_dir, *contents.trained_on.manifests, *evidence.real_folders]
    return publication.finish(stops, card, patient_ids([*folders, *filter(None, [config.include_real])]))


def _choose(table: pd.DataFrame, evidence: Evidence, config: PublishDatasetConfig) -> Contents:
    """The images that are published, all synthetic ones in the training split."""
    table, left_out = _without_copies(table, evidence) if config.without_copies else (table, 0)
    generated = Generated.read(config.data_dir, set(table.get("model_sha256", [])))
    real, real_facts = _real(config), []
    if real is not None:
        _refuse_held_out(table, real, generated.trained_on.sha256, config)
        rng = np.random.default_rng(config.seed)
        table = choose(real[real["split"] == "train"], table, config.synthetic_ratio, None, False, rng)
        real_facts = [SetFacts.of(config.include_real)]
    synthetic = table.assign(split="train").reset_index(drop=True)
    data = [*_binding(synthetic, generated.trained_on), *real_facts]
    return Contents(synthetic, real, generated, data, left_out)


def _card_facts(
    contents: Contents,
    license: License | None,
    evidence: Evidence,
    stops: Sequence[gates.Stop],
    config: PublishDatasetConfig,
) -> dict[str, Any]:
    """What the card says but for the files themselves."""
    bound_by = replace(contents.trained_on, data=tuple(contents.data), base_data=())
    shared = cards.shared_facts(bound_by, license, evidence, stops, config, contents.published)
    return shared | {
        "notice": "Its synthetic images are no photographs of patients, and no evidence of how a disease looks.",
        "it": "this set",
        "data_title": "What the model was trained on" + ("" if contents.real is None else ", and the real images"),
        "published": len(contents.synthetic),
        "copies_left_out": contents.copies_left_out,
        "cost": None,
        "limits": ["A label says what was requested of the model, not what a dermatologist would see."],
    }


def _synthetic(config: PublishDatasetConfig) -> pd.DataFrame:
    """The synthetic images, with `path` and `sha256`."""
    folder = Path(config.data_dir)
    if RunRecord.is_one(folder):
        raise InputError(f"{folder} is a run, not a set of images: dermgen publish model {folder} …")
    table = manifest.read(folder)
    real = int((table["synthetic"] != "true").sum())
    if real:
        raise InputError(
            f"{folder} has {real} real images, which are published only as a folder of their own, by --include_real DIR"
        )
    if "kept" in table and not config.dropped_too:
        table = table[table["kept"] == "true"]
        if table.empty:
            raise InputError(f"{folder}: the filter kept none of its images")
    return _with_files(table.reset_index(drop=True), folder)


def _real(config: PublishDatasetConfig) -> pd.DataFrame | None:
    """The real images, if they are to be published and may be."""
    if config.include_real is None:
        return None
    real = manifest.read_real(config.include_real)
    licenses = {text: parse_license(text or config.data_license or "") for text in set(real["license"])}
    for text, license in licenses.items():
        n = int((real["license"] == text).sum())
        if license is None:
            raise InputError(
                f"the licence of {n} real images of {config.include_real} is unknown, so they are not published: "
                "say it with --data_license if you know it, or leave --include_real out"
            )
        if not license.allows_sharing:
            raise InputError(
                f"{n} real images of {config.include_real} are under {license.name}, which does not let prepared "
                "images be passed on: leave --include_real out"
            )
    lost = int((~real["split"].isin(manifest.SPLITS)).sum())
    if lost:
        raise InputError(f"{lost} real images of {config.include_real} have no split: `dermgen prepare` splits them")
    return _with_files(real.drop(columns="path"), Path(config.include_real))


def _without_copies(table: pd.DataFrame, evidence: Evidence) -> tuple[pd.DataFrame, int]:
    """The images that the audit does not call copies, and how many it does."""
    if evidence.audit is None:
        raise InputError("--without_copies needs to know them: give the audit's folder with --evidence")
    copies = table["sha256"].isin(evidence.copied)
    if copies.all():
        raise InputError(f"all {len(table)} images are copies of training images: nothing is left to publish")
    return table[~copies], int(copies.sum())


def _refuse_held_out(
    table: pd.DataFrame, real: pd.DataFrame, trained_on: Collection[str] | None, config: PublishDatasetConfig
) -> None:
    """Refuse to publish val and test splits that the model of the synthetic images has seen."""
    held_out = real[real["split"] != "train"]
    drawn_over = set(held_out["image_id"]) & set(table.get("source_image_id", [])) - {""}
    if drawn_over:
        raise InputError(
            f"{len(drawn_over)} images of {config.data_dir} were drawn over held-out images of {config.include_real} "
            f"(as {min(drawn_over)}), which they would bring into the training split: draw over its train split"
        )
    known = held_out["sha256"].isin(trained_on or ())
    if known.any():
        raise InputError(
            f"the model was trained on {int(known.sum())} held-out images of {config.include_real} (as "
            f"{held_out.loc[known, 'image_id'].iloc[0]}), whose splits would be worthless: give the manifest "
            "that it was trained on"
        )


def _with_files(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    paths = [str(folder / name) for name in table["file_name"]]
    missing = [p for p in paths if not Path(p).exists()]
    if missing:
        raise InputError(
            f"{len(missing)} of the {len(paths)} images of {folder} are missing (as {missing[0]}): make them again, or "
            "take their rows out of metadata.csv"
        )
    check_readable(paths)
    return table.assign(path=paths, sha256=list(map(hash_file, paths)))


def _binding(synthetic: pd.DataFrame, trained_on: TrainedOn) -> list[SetFacts]:
    """Facts of what the model was trained on, and of whatever else the licences in the manifest come from."""
    leaky = manifest.is_leaky(synthetic)
    entries = [replace(entry, leaky=entry.leaky or leaky) for entry in trained_on.all_data]
    more = set(synthetic["license"]) - set(trained_on.licenses) - ({""} if entries else set())
    if more:  # of photographs that they were drawn over, or all there is to know
        sources = [] if entries else [""]
        entries.append(SetFacts(images=None, lesions=None, licenses=sorted(more), sources=sources, leaky=leaky))
    return [entry for i, entry in enumerate(entries) if entry not in entries[:i]]


def _how_to_audit(config: PublishDatasetConfig) -> str:
    real = config.include_real or "MANIFEST_OF_THE_TRAINING_IMAGES"
    return f"dermgen audit --real {real} --synthetic {config.data_dir} --output_dir audit, and give --evidence audit"


def _images(rows: pd.DataFrame, config: PublishDatasetConfig, tar: bool) -> dict[str, Any]:
    """Numbers of images for the card."""
    synthetic = rows["synthetic"] == "true"
    names = dict(cards.class_names(sorted(set(rows["dx"])), from_labels(rows["dx"]).name))

    def counts(mine: pd.Series) -> tuple[int, int]:
        return int((mine & synthetic).sum()), int((mine & ~synthetic).sum())

    columns = ("model", "model_sha256", "guidance_scale", "num_inference_steps", "scheduler")
    known = [c for c in columns if c in rows]
    models = [{"images": int(synthetic.sum())}]
    if known:
        models = rows[synthetic].groupby(known, dropna=False).size().reset_index(name="images").to_dict("records")
    return {
        "synthetic": int(synthetic.sum()),
        "real": int((~synthetic).sum()),
        "format": "WebDataset shards" if tar else "Parquet with embedded images",
        "splits": [
            (name, *counts(rows["split"] == split))
            for split, name in shards.SPLITS.items()
            if (rows["split"] == split).any()
        ],
        "classes": [(dx or "unknown", meaning, *counts(rows["dx"] == dx)) for dx, meaning in names.items()],
        "columns": [c for c in shards.COLUMNS if c in rows],
        "column": " or ".join(shards.image_columns(rows)) if tar else "image",
        "models": [dict.fromkeys(columns, "") | model for model in models],
        "filter": None if config.dropped_too else _filter(config.data_dir),
    }


def _filter(folder: str) -> Filtered | None:
    """How the images were chosen, without paths; None where they were not filtered."""
    if not is_one(Filtered, folder):
        return None
    result = read(Filtered, folder)
    return replace(result, scorer=without_paths_in(result.scorer))


def _provenance(generated: Generated, sha256: str) -> list[tuple[str, str]]:
    """How the set came about, for a table."""
    rows = [("dermgen", __version__), ("hash over all images", f"`{sha256}`")]
    if generated.packages:
        packages = ", ".join(f"{name} {version}" for name, version in generated.packages.items())
        rows += [("drawn with", packages), ("command", f"`{shlex.join(without_paths(list(generated.argv)))}`")]
    return rows + ([("seed of the drawing", str(generated.seed))] if generated.seed is not None else [])


def _metadata(rows: pd.DataFrame, title: str, license: License | None, tar: bool) -> DatasetCardData:
    """The card's metadata by the Hub's names."""
    import datasets

    sizes = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")]
    splits = [name for split, name in shards.SPLITS.items() if (rows["split"] == split).any()]
    suffix = "tar" if tar else "parquet"
    # The types in a tar are otherwise guessed from its first images, which in a mixed set have no seed.
    info = datasets.DatasetInfo(features=shards.tar_features(rows))._to_yaml_dict() if tar else None
    return DatasetCardData(
        dataset_info=info,
        pretty_name=title,
        license=license.id if license else None,
        license_name=cards.slug(license.name) if license and license.id == "other" else None,
        task_categories=["image-classification", "text-to-image"],
        size_categories=[next((name for limit, name in sizes if len(rows) < limit), "n>1M")],
        tags=["dermatology", "dermgen", "medical", "synthetic"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": name, "path": f"data/{name}-*.{suffix}"} for name in splits],
            }
        ],
    )
