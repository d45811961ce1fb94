"""`dermgen evaluate`: scores of a synthetic set, each with its confidence interval and its real reference."""

from collections.abc import Hashable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator

from dermgen import plots, statistics
from dermgen.blocks import for_terminal
from dermgen.config import InputError
from dermgen.data import comparable, manifest, splits
from dermgen.data.loading import PixelSet
from dermgen.data.prepared import Split
from dermgen.data.subsets import choose
from dermgen.evaluate import features, images, pairs, products, scores
from dermgen.results.common import Estimate, ImageSet, heading, in_unit, is_one, read, write
from dermgen.results.evaluation import Evaluation, Extractor, Group, Pairs, Reference, Score, TooFew
from dermgen.results.filtered import Filtered
from dermgen.settings.evaluate import EvaluateConfig
from dermgen.training.processes import claim_together

OF_ONE_SET = ("vendi", "mean_cosine", "inception_score", "recognised")
METHODS = {
    "kid": "unbiased estimate over all images, the mean over all subsets",
    "precision and recall": f"{scores.PRECISION_K} nearest neighbours",
    "density and coverage": f"{scores.DENSITY_K} nearest neighbours",
    "recognised": "share of images that the classifier, whose features are compared, assigns to their class",
    "intervals": "from each image's influence, on both sides, real images by lesion; those of precision, "
    "recall, density and coverage are cautious: wider than needed rather than narrower",
}


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Write `evaluation.json`, `scores.csv` and plots.

    Raises:
        InputError: for sets that are empty, too small or of the wrong kind, or an extractor that cannot be loaded.
    """
    real_table, synthetic_table = _with_shared_labels(
        images.read(config.real, False), images.read(config.synthetic, True)
    )
    lpips = pairs.load_lpips(config.lpips) if config.lpips != "none" else None
    folder = Path(config.output_dir)
    accelerator = Accelerator()
    extractor = features.load(config.extractor, accelerator.device)
    claim_together(accelerator, folder, config)
    parts = _embedded(real_table, synthetic_table, extractor, accelerator, config)
    held_out, judged = parts["held_out"], parts["synthetic"].table
    faults, notes = comparable.check(real_table, held_out.table, synthetic_table, config.synthetic)
    groups, too_few = _score_groups(parts, config, accelerator.device)
    warnings = [*(f"{fault.reason}: do not trust the scores" for fault in faults), *notes]
    result = Evaluation(
        real=config.real,
        synthetic=config.synthetic,
        extractor=Extractor(
            name=extractor.name,
            revision=extractor.revision,
            resolution=extractor.resolution,
            resize=features.RESIZE,
        ),
        methods=METHODS,
        **Split.of(config.real).to_json(),
        images=ImageSet(**manifest.identity(judged)),
        reference=Reference(
            sources=sorted(set(held_out.table["source"]) - {""}),
            splits=sorted(set(held_out.table["split"]) - {""}),
            sha256=manifest.identity(held_out.table)["sha256"],
        ),
        warnings=[*warnings, *_warnings(config, extractor, parts)],
        examples=[fault.example for fault in faults],
        notes=_notes(extractor, parts, groups[0]),
        groups=groups,
        too_few=too_few,
        pairs=_pairs(parts, config, lpips),
    )
    if accelerator.is_main_process:
        write(result, folder)
        manifest.write_csv(_rows(result), folder / "scores.csv")
        _plot(result.groups, folder / "plots")
        print(for_terminal(result.blocks(folder)))
    accelerator.wait_for_everyone()
    return result


def _with_shared_labels(real: pd.DataFrame, synthetic: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables, without classes if one side has none: those of the other side could not be matched."""
    if (real["dx"] != "").any() == (synthetic["dx"] != "").any():
        return real, synthetic
    return real.assign(dx=""), synthetic.assign(dx="")


def _embedded(
    real_table: pd.DataFrame,
    synthetic_table: pd.DataFrame,
    extractor: features.Extractor,
    accelerator: Accelerator,
    config: EvaluateConfig,
) -> dict[str, features.FeatureSet]:
    """The sets of `_parts`, restricted to the classes of the synthetic set."""
    real, synthetic = (
        features.features(extractor, t, accelerator, config.batch_size, cache_dir=config.cache_dir)
        for t in (real_table, synthetic_table)
    )
    synthetic_classes = set(synthetic_table["dx"])
    if synthetic_classes & set(real_table["dx"]):
        real = real.take(np.flatnonzero(real_table["dx"].isin(synthetic_classes)))
    parts = _parts(real, synthetic, extractor)
    if min(len(parts["held_out"]), len(synthetic)) < scores.MIN_IMAGES:
        classes = ", ".join(sorted(synthetic_classes - {""})) or "any"
        raise InputError(
            f"scores need at least {scores.MIN_IMAGES} images on each side, but {config.synthetic} has "
            f"{len(synthetic)}, and {config.real} has {len(parts['held_out'])} held-out ones of its classes "
            f"({classes}): generate more images, or hold out more real ones with `dermgen prepare --split`"
        )
    return parts


def _score_groups(
    parts: dict[str, features.FeatureSet], config: EvaluateConfig, device: torch.device
) -> tuple[list[Group], list[TooFew]]:
    """Scores of all images and of every class and subgroup, and the groups too small to be scored."""
    groups = {name: images.subgroups(part.table) for name, part in parts.items()}
    entries, too_few = [], []
    for scope, group in _scopes(groups["held_out"], groups["synthetic"]):
        inside = {
            name: part if scope == "all" else part.take(np.flatnonzero(groups[name][scope] == group))
            for name, part in parts.items()
        }
        inside["synthetic"] = _of_large_classes(inside["synthetic"], inside["held_out"])
        reference = features.of_same_mix(inside["held_out"], inside["synthetic"], config.seed)
        counts = {
            "scope": scope,
            "group": group,
            "n_real": len(reference),
            "n_synthetic": len(inside["synthetic"]),
        }
        if scope == "all" and min(counts["n_real"], counts["n_synthetic"]) < scores.MIN_IMAGES:
            raise InputError(
                f"no class has {scores.MIN_IMAGES} images on each side ({config.real} has {len(inside['held_out'])} "
                f"held-out images of the classes in {config.synthetic}): generate more images of fewer classes, or "
                "hold out more real ones with `dermgen prepare --split`"
            )
        if (lesions := reference.table["group"].nunique()) < 2 and scope == "all":
            raise InputError(
                f"{config.real} has held-out images of a single lesion or patient, and scores need several: hold out "
                "more with `dermgen prepare --split`"
            )
        # A single lesion does not show how much scores vary between lesions.
        if lesions < 2 or (scope != "all" and min(counts["n_real"], counts["n_synthetic"]) < config.min_images):
            too_few.append(TooFew(**counts))
        else:
            entries.append(Group(**counts, **_compare(reference, inside, config.seed, device)))
    return entries, too_few


def _scopes(real: pd.DataFrame, synthetic: pd.DataFrame) -> list[tuple[str, str]]:
    """All images, then every value of every subgroup that occurs on both sides."""
    both = [
        (scope, value)
        for scope in real.columns
        for value in images.in_order(scope, set(real[scope]) & set(synthetic[scope]))
        if (scope != "class" or real[scope].nunique() > 1)
    ]
    return [("all", ""), *both]


def _parts(
    real: features.FeatureSet, synthetic: features.FeatureSet, extractor: features.Extractor
) -> dict[str, features.FeatureSet]:
    """The sets that are compared: held-out, training and synthetic images, and real ones instead of the synthetic.

    Stand-ins are real images outside the held-out set that the extractor was not trained on, since its features of
    training images differ from those of new images. Without any, the held-out images are halved by lesion.
    """
    reference = images.reference_sets(real.table)
    held_out = reference["held_out"]
    other = np.setdiff1d(np.arange(len(real)), held_out)
    stand_in = other[~real.table["image_id"].iloc[other].isin(extractor.trained_on).to_numpy()]
    if not len(stand_in):
        lesions = real.table["group"].iloc[held_out]
        half = splits.split_groups(real.table["dx"].iloc[held_out], lesions, {"stand_in": 0.5, "held_out": 0.5}, 0)
        stand_in = held_out[half == "stand_in"]
    parts = {"held_out": held_out, "train": reference["train"], "stand_in": stand_in}
    return {name: real.take(rows) for name, rows in parts.items()} | {"synthetic": synthetic}


def _of_large_classes(synthetic: features.FeatureSet, held_out: features.FeatureSet) -> features.FeatureSet:
    """The images of classes that are large enough on both sides."""
    counts = [part.table["dx"].value_counts() for part in (synthetic, held_out)]
    ours, theirs = (set(c.index[c >= scores.MIN_IMAGES]) for c in counts)
    return synthetic.take(np.flatnonzero(synthetic.table["dx"].isin(ours & theirs)))


def _compare(held_out: features.FeatureSet, inside: dict[str, features.FeatureSet], seed: int, device) -> dict:
    """Scores against held-out images, against as many training images, and of real images instead of the synthetic.

    Most scores depend on the number of images, so each of these comparisons uses equal numbers.
    """
    synthetic = inside["synthetic"]
    against_held_out = _all_scores(held_out, synthetic, device)
    train = features.of_same_mix(inside["train"], synthetic, seed, at_most=len(held_out))
    against_train = _all_scores(train, synthetic, device) if len(train) >= scores.MIN_IMAGES else {}
    stand_in = features.of_same_mix(inside["stand_in"], synthetic, seed, at_most=len(synthetic))
    reference = held_out.take(_apart(held_out, stand_in))
    enough = min(len(stand_in), len(reference)) >= scores.MIN_IMAGES
    floor, at_floor = {}, {}
    if enough:
        floor = _all_scores(reference, stand_in, device)
        fewer = features.of_same_mix(synthetic, synthetic, seed, at_most=len(stand_in))
        at_floor = _all_scores(reference, fewer, device) if len(fewer) >= scores.MIN_IMAGES else {}
    entries = {}
    for name, score in against_held_out.items():
        low, high = score.interval(held_out.table["group"])
        entries[name] = Score(
            value=score.value,
            low=low,
            high=high,
            train=against_train[name].value if name in against_train and name not in OF_ONE_SET else None,
            floor=floor[name].value if name in floor else None,
            at_floor_n=at_floor[name].value if name in at_floor else None,
        )
    reliable = min(len(held_out), len(synthetic)) >= scores.FID_RELIABLE
    return {
        "n_train": len(train),
        "n_floor": len(stand_in) if enough else 0,
        "n_floor_reference": len(reference) if enough else 0,
        "fid_reliable": reliable,
        "scores": entries,
    }


def _all_scores(reference: features.FeatureSet, judged: features.FeatureSet, device) -> dict[str, scores.Score]:
    by_name, _ = scores.compare(reference.features, judged.features, device)
    by_name |= {"vendi": scores.vendi(judged.features), "mean_cosine": scores.mean_cosine(judged.features)}
    if judged.logits.shape[1]:
        by_name["inception_score"] = scores.inception_score(judged.logits)
    if set(judged.table["dx"]) <= set(judged.classes):
        requested = np.array([judged.classes.index(dx) for dx in judged.table["dx"]])
        by_name["recognised"] = scores.recognised(judged.logits, requested)
    return by_name


def _pairs(parts: dict[str, features.FeatureSet], config: EvaluateConfig, lpips) -> Pairs:
    """Pixel similarities, medians over images: of synthetic images with their nearest real one, of held-out real images
    with theirs (the floor), and of synthetic images with a random real one of their class."""
    rng = np.random.default_rng(config.seed)
    against = "train" if len(parts["train"]) else "stand_in"
    base = parts[against]
    sets = (parts["synthetic"], parts["held_out"].take(_apart(parts["held_out"], base)))
    columns = ([part.table[c] for c in ("image_id", "lesion_id", "dx")] for part in sets)
    chosen, held_out = (
        part.take(choose(ids, config.max_pairs, config.seed, lesions, classes))
        for part, (ids, lesions, classes) in zip(sets, columns, strict=True)
    )
    of_class = {dx: np.flatnonzero(base.table["dx"] == dx) for dx in set(chosen.table["dx"])}
    random = [rng.choice(rows if len(rows := of_class[dx]) else np.arange(len(base))) for dx in chosen.table["dx"]]
    side = min(256, _side(chosen.table["path"].iloc[0]))

    def similarities(judged: features.FeatureSet, partners: Sequence[int]) -> dict[str, list[float]]:
        pixels = PixelSet.of(judged.table, side).stack()
        partner_pixels = PixelSet.of(base.table.iloc[partners], side).stack()
        return pairs.similarities(pixels, partner_pixels, lpips)

    nearest = similarities(chosen, products.nearest(chosen.features, base.features, 1)[1][:, 0])
    floor = (
        similarities(held_out, products.nearest(held_out.features, base.features, 1)[1][:, 0]) if len(held_out) else {}
    )
    labels = chosen.table["dx"].to_numpy()
    return Pairs(
        n=len(chosen),
        n_floor=len(held_out),
        resolution=side,
        resize=features.RESIZE,
        against=against,
        nearest={name: _median(values) for name, values in nearest.items()},
        floor={name: _median(values, held_out.table["group"]) for name, values in floor.items()},
        random={name: _median(values) for name, values in similarities(chosen, random).items()},
        nearest_per_class={
            dx: {name: _median(np.array(values)[labels == dx]) for name, values in nearest.items()}
            for dx in sorted(set(labels) - {""})
        },
    )


def _apart(part: features.FeatureSet, other: features.FeatureSet) -> np.ndarray:
    """Rows of `part` whose lesions have no image in `other`."""
    return np.flatnonzero(~part.table["group"].isin(set(other.table["group"])))


def _median(values: Sequence[float], groups: Sequence[Hashable] | None = None) -> Estimate:
    """Median and bootstrap interval, resampling whole `groups` if given; None where infinite, as the PSNR of equal
    images is."""
    values = np.asarray(values, float)
    weights = statistics.resampled_weights(np.arange(len(values)) if groups is None else groups, 1000, 0)
    order = np.argsort(values, kind="stable")
    reached = weights[:, order].cumsum(axis=1)
    medians = values[order][(reached >= reached[:, -1:] / 2).argmax(axis=1)]
    # inverted_cdf takes one of the values and never the difference of two infinite ones
    interval = np.quantile(medians, [0.025, 0.975], method="inverted_cdf")
    value, low, high = (v if np.isfinite(v) else None for v in (float(np.median(values)), *map(float, interval)))
    return Estimate(value=value, low=low, high=high)


def _side(path: str) -> int:
    from PIL import Image

    with Image.open(path) as image:
        return min(image.size)


def _warnings(
    config: EvaluateConfig, extractor: features.Extractor, parts: dict[str, features.FeatureSet]
) -> list[str]:
    """What a reader must act on."""
    warnings = []
    if set(parts["held_out"].table["image_id"]) & extractor.trained_on:
        warnings.append("the extractor was trained on held-out images: do not trust its scores")
    warnings += Split.of(config.real).warnings()
    if is_one(Filtered, config.synthetic) and read(Filtered, config.synthetic).scorer_revision == extractor.revision:
        warnings.append("the synthetic set was filtered by this same network, which flatters it: use another extractor")
    return warnings


def _notes(extractor: features.Extractor, parts: dict[str, features.FeatureSet], overall: Group) -> list[str]:
    """What helps to read the scores."""
    notes = []
    if not (parts["synthetic"].table["dx"] != "").any():
        notes.append("one side has no classes, so a different mix of classes affects the scores")
    left_out = set(parts["synthetic"].table["dx"]) - {""}
    left_out -= set(_of_large_classes(parts["synthetic"], parts["held_out"]).table["dx"])
    if left_out:
        notes.append(
            f"classes with under {scores.MIN_IMAGES} images on a side are left out: {', '.join(sorted(left_out))}"
        )
    if overall.n_real < len(parts["held_out"]):
        notes.append(
            f"the reference is {overall.n_real} of {len(parts['held_out'])} held-out images, chosen to have the "
            "synthetic set's class shares"
        )
    if overall.n_floor and overall.n_floor < overall.n_synthetic:
        notes.append(
            f"the reference uses only {overall.n_floor} real images: compare it with the value at its sample size, "
            "since all scores except KID and precision depend on the number of images"
        )
    if set(parts["train"].table["image_id"]) & extractor.trained_on:
        notes.append(
            "the extractor was trained on the training split, whose features differ from those of new images: the "
            "column of the training split means little, and the reference uses other real images"
        )
    if not overall.fid_reliable:
        n = min(overall.n_real, overall.n_synthetic)
        notes.append(f"FID of {n} images is unreliable (under {scores.FID_RELIABLE:,}): use KID")
    return notes


def _rows(result: Evaluation) -> pd.DataFrame:
    """A row for each score of each group."""
    return pd.DataFrame(
        [
            {
                "scope": group.scope,
                "group": group.group,
                "score": name,
                **asdict(score),
                **{n: getattr(group, n) for n in ("n_real", "n_train", "n_synthetic", "n_floor")},
                "extractor": result.extractor.name,
                "revision": result.extractor.revision,
                "resize": result.extractor.resize,
            }
            for group in result.groups
            for name, score in group.scores.items()
        ]
    )


def _plot(groups: Sequence[Group], folder: Path) -> None:
    """Plot each score of every group with its real reference."""
    labelled = [(f"{group.name} ({group.n_synthetic})", group.scores) for group in groups]
    for name in ("kid", "precision", "recall", "density", "coverage"):
        synthetic, floors = [], []
        for label, by_name in labelled:
            score = by_name[name]
            synthetic.append(plots.Dot(label, *(in_unit(name, v) for v in (score.value, score.low, score.high))))
            if score.floor is not None:
                floors.append(plots.Dot(label, *[in_unit(name, score.floor)] * 3))
        title = heading(name)
        plots.dots(folder / f"{name}.png", title, title, {"synthetic": synthetic, "real reference": floors})
