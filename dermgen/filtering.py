"""`dermgen filter`: keep the best share of a synthetic set, and measure its cost."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.special
import torch
from accelerate import Accelerator
from PIL import Image
from tqdm.auto import tqdm

from dermgen import plots, runs
from dermgen.blocks import for_terminal
from dermgen.config import InputError
from dermgen.data import comparable, manifest
from dermgen.data.loading import PixelSet
from dermgen.data.sheets import contact_sheet
from dermgen.data.trained_on import TrainedOn
from dermgen.evaluate import features, images, products, scores
from dermgen.results.common import write
from dermgen.results.filtered import Filtered, Kept, Share
from dermgen.settings.evaluate import FilterConfig
from dermgen.training.processes import claim_together

NEIGHBOURS = 5


def filter_images(config: FilterConfig) -> Filtered:
    """Write the manifest view, `filter.json`, a histogram and a sheet of kept and dropped images.

    Raises:
        InputError: for images without a class, or a scorer that was trained on the held-out images.
    """
    synthetic, real = images.read(config.synthetic, True, dropped_too=True), images.read(config.real, False)
    if config.scorer == "discriminator" and (synthetic["dx"] == "").all():
        real = real.assign(dx="")  # a GAN without classes is compared with images of all classes
    elif (synthetic["dx"] == "").any():
        raise InputError(f"{config.synthetic} has images without a dx, so they cannot be scored as images of a class")
    reference = images.reference_sets(real)
    held_out, train = real.iloc[reference["held_out"]], real.iloc[reference["train"]]
    faults, notes = comparable.check(real, held_out, synthetic, config.synthetic)
    warnings = [f"{reason} (for example {example}): do not trust these scores" for reason, example in faults] + notes
    folder = Path(config.output_dir)
    accelerator = Accelerator()

    def embed(extractor, table):
        return features.features(extractor, table, accelerator, config.batch_size, cache_dir=config.cache_dir)

    extractor = features.load(config.extractor, accelerator.device)
    quality, revision = _quality(config, synthetic, train, held_out, extractor, embed, accelerator)
    claim_together(accelerator, folder, config)
    kept = choose(quality, synthetic["dx"].to_numpy(), config.keep, config.threshold)
    if not kept.any():
        raise InputError(
            f"nothing scores {config.threshold} or more; the best score is {quality.max():.4g}: lower --threshold"
        )
    cost = _cost(embed(extractor, synthetic), kept, embed(extractor, held_out), accelerator.device)
    result = Filtered(
        scorer=config.scorer if config.scorer == "features" else f"{config.scorer} {config.run}",
        scorer_revision=revision,
        extractor=extractor.name,
        extractor_revision=extractor.revision,
        judged_by_its_scorer=extractor.revision == revision,
        keep=None if config.threshold is not None else config.keep,
        threshold=config.threshold,
        n=len(synthetic),
        kept=int(kept.sum()),
        per_class={
            dx: Kept(n=int(of_class.sum()), kept=int((kept & of_class).sum()))
            for dx in sorted(set(synthetic["dx"]))
            for of_class in [(synthetic["dx"] == dx).to_numpy()]
        },
        cost=cost,
        shares=_shares(images.subgroups(synthetic), kept),
        warnings=warnings,
    )
    if accelerator.is_main_process:
        _write(result, synthetic, quality, kept, Path(config.synthetic), folder)
        print(for_terminal(result.blocks(folder)))
    accelerator.wait_for_everyone()
    return result


def _write(
    result: Filtered, synthetic: pd.DataFrame, quality: np.ndarray, kept: np.ndarray, synthetic_dir: Path, folder: Path
) -> None:
    """The files of a filter's folder."""
    view = synthetic.assign(quality_score=quality.round(6), kept=np.where(kept, "true", "false"))
    manifest.write_view(view, synthetic_dir, folder)
    write(result, folder)
    groups = {"kept": quality[kept], "dropped": quality[~kept]} if not kept.all() else {"kept": quality}
    plots.histogram(folder / "plots" / "quality.png", "Quality score", result.scorer, groups)
    _sheet(synthetic, quality, kept, folder / "sheets" / "kept_and_dropped.png")


def _quality(
    config: FilterConfig,
    synthetic: pd.DataFrame,
    train: pd.DataFrame,
    held_out: pd.DataFrame,
    extractor: features.Extractor,
    embed: Callable[[features.Extractor, pd.DataFrame], features.FeatureSet],
    accelerator: Accelerator,
) -> tuple[np.ndarray, str]:
    """The quality of each synthetic image by the config's scorer, (N,), and that scorer's revision."""
    if config.scorer == "classifier":
        return _agreement(config.run, synthetic, held_out, embed, accelerator)
    if config.scorer == "discriminator":
        return _realness(config, synthetic, held_out, accelerator.device)
    if train.empty:
        raise InputError(f"{config.real} has no train split, which --scorer features compares with")
    _refuse_if_seen(extractor.trained_on, held_out, extractor.name)
    return _nearness(synthetic, train, lambda table: embed(extractor, table).features), extractor.revision


def choose(quality: np.ndarray, labels: np.ndarray, keep: float, threshold: float | None) -> np.ndarray:
    """Which images are kept, (N,) bool: the best share of each class, at least one, or all from a threshold on."""
    if threshold is not None:
        return quality >= threshold
    kept = np.zeros(len(quality), bool)
    for label in set(labels):
        of_class = np.flatnonzero(labels == label)
        best = of_class[np.argsort(-quality[of_class], kind="stable")]
        kept[best[: max(1, round(keep * len(of_class)))]] = True
    return kept


def _agreement(run: str, synthetic: pd.DataFrame, held_out: pd.DataFrame, embed, accelerator) -> tuple[np.ndarray, str]:
    """The classifier's probability of the requested class."""
    extractor = features.load_classifier(run, accelerator.device)
    classes = extractor.classes
    unknown = sorted(set(synthetic["dx"]) - set(classes))
    if unknown:
        raise InputError(f"the classifier {run} does not know {', '.join(unknown)}; it knows {', '.join(classes)}")
    _refuse_if_seen(extractor.trained_on, held_out, f"the classifier {run}")
    probabilities = scipy.special.softmax(embed(extractor, synthetic).logits, axis=1)
    requested = np.array([classes.index(dx) for dx in synthetic["dx"]])
    return probabilities[np.arange(len(requested)), requested], extractor.revision


def _realness(
    config: FilterConfig, synthetic: pd.DataFrame, held_out: pd.DataFrame, device: torch.device
) -> tuple[np.ndarray, str]:
    """The mean logit of a GAN's discriminator for each image, given its class."""
    run, critic = runs.load_critic(config.run, device, config.kind)
    ignores_classes = not run.method.translates and not run.class_conditional
    unknown = sorted(set(synthetic["dx"]) - {*run.classes, *([""] if ignores_classes else [])})
    if unknown and run.classes and config.kind is None:
        raise InputError(
            f"the discriminator of {config.run} does not know {', '.join(map(repr, unknown))}; it knows "
            f"{', '.join(run.classes)}"
        )
    _refuse_if_seen(TrainedOn.ids(run.folder), held_out, f"the discriminator of {config.run}")
    dataset = PixelSet.of(synthetic, run.resolution)
    logits = []
    starts = range(0, len(dataset), config.batch_size)
    for start in tqdm(starts, desc="discriminator", disable=len(starts) < 2, dynamic_ncols=True):
        rows = range(start, min(start + config.batch_size, len(dataset)))
        logits.append(critic.score(dataset.stack(rows), [synthetic["dx"][i] for i in rows]))
    return torch.cat(logits).double().numpy(), run.discriminator_sha256()[:12]


def _refuse_if_seen(trained_on: frozenset[str], held_out: pd.DataFrame, scorer: str) -> None:
    seen = sorted(trained_on & set(held_out["image_id"]))
    if seen:
        raise InputError(
            f"{scorer} was trained on {len(seen)} of the {len(held_out)} held-out images (for example {seen[0]}), "
            "which then cannot judge the images that it keeps: train it on the train split of the same manifest"
        )


def _nearness(synthetic: pd.DataFrame, train: pd.DataFrame, embed) -> np.ndarray:
    """Minus the mean distance to the 5 nearest training images of the class."""
    quality = np.empty(len(synthetic))
    for dx in sorted(set(synthetic["dx"])):
        of_class = np.flatnonzero(synthetic["dx"] == dx)
        real = train[train["dx"] == dx]
        if len(real) < NEIGHBOURS:
            raise InputError(
                f"--scorer features needs at least {NEIGHBOURS} real training images of each class; {dx} has "
                f"{len(real)}"
            )
        squared, _ = products.nearest(embed(synthetic.iloc[of_class]), embed(real), NEIGHBOURS)
        quality[of_class] = -np.sqrt(squared).mean(1)
    return quality


def _cost(
    synthetic: features.FeatureSet, kept: np.ndarray, held_out: features.FeatureSet, device: torch.device
) -> dict:
    """Recall and coverage of held-out real images, precision and Vendi score, of all and of the kept images.

    More images always cover more, so a random subset with as many images of each class is measured beside the kept
    ones. Each set is compared with held-out images in its own class shares, without classes that have none.
    """
    labels, rng = synthetic.table["dx"].to_numpy(), np.random.default_rng(0)
    known = np.isin(labels, held_out.table["dx"].unique())
    random_rows = [
        rng.permutation(rows)[: kept[rows].sum()]
        for dx in sorted(set(labels))
        for rows in [np.flatnonzero(labels == dx)]
    ]
    cost = {}
    for column, rows in (
        ("all", np.arange(len(kept))),
        ("kept", np.flatnonzero(kept)),
        ("random", np.concatenate(random_rows)),
    ):
        part, compared = synthetic.take(rows), synthetic.take(rows[known[rows]])
        entry = {"n": len(rows), "vendi": scores.vendi(part.features).value}
        reference = features.of_same_mix(held_out, compared, 0)
        if min(len(compared), len(reference)) >= scores.MIN_IMAGES:
            by_name, _ = scores.compare(reference.features, compared.features, device)
            entry |= {name: by_name[name].value for name in ("recall", "coverage", "precision", "kid")}
        cost[column] = entry
    return cost


def _shares(groups: pd.DataFrame, kept: np.ndarray) -> dict[str, dict[str, Share]]:
    """Share of every known subgroup before and after filtering."""
    shares: dict[str, dict[str, Share]] = {}
    for scope in groups.columns:
        known = groups[scope] != ""
        for value in images.in_order(scope, groups[scope]):
            of_value = (groups[scope] == value).to_numpy()
            after = (of_value & kept).sum() / max(1, (known & kept).sum())
            shares.setdefault(scope, {})[value] = Share(before=float(of_value.sum() / known.sum()), after=float(after))
    return shares


def _sheet(synthetic: pd.DataFrame, quality: np.ndarray, kept: np.ndarray, path: Path) -> None:
    """A row for each class: the best of the kept images, then the worst of the dropped ones."""
    order = np.argsort(-quality, kind="stable")
    pictures, captions = [], []
    for dx in sorted(set(synthetic["dx"])):
        of_class = [i for i in order if synthetic["dx"][i] == dx]
        chosen = [i for i in of_class if kept[i]][:6], [i for i in of_class[::-1] if not kept[i]][:6]
        for word, rows in zip(("kept", "dropped"), chosen, strict=True):
            for i in [*rows, *[None] * (6 - len(rows))]:
                with Image.open(synthetic["path"][i if i is not None else 0]) as image:
                    picture = image.convert("RGB").resize((96, 96), Image.Resampling.BICUBIC)
                pictures.append(picture if i is not None else Image.new("RGB", (96, 96), "white"))
                captions.append(f"{word} {dx} {quality[i]:.2g}" if i is not None else "")
    contact_sheet(pictures, path, 12, captions)
