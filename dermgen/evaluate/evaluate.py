"""`dermgen evaluate`: how good a synthetic set is, every score with its interval, its floor and its reference."""

import json
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator

from dermgen import plots, statistics
from dermgen.config import InputError, write_json
from dermgen.data import comparable, manifest, splits
from dermgen.data.subsets import choose
from dermgen.evaluate import features, images, pairs, products, scores
from dermgen.settings.evaluate import EvaluateConfig
from dermgen.training.processes import claim_together

BEST = {
    "kid": "lower", "fid": "lower", "precision": "higher", "recall": "higher", "density": "higher",
    "coverage": "higher", "inception_score": "higher", "vendi": "as real", "mean_cosine": "as real",
}  # fmt: skip
OF_ONE_SET = ("vendi", "mean_cosine", "inception_score")


def evaluate(config: EvaluateConfig) -> dict:
    """Write `evaluation.json`, `scores.csv` and plots.

    Raises:
        InputError: for sets that are empty, too small or of the wrong kind, or an extractor that cannot be had.
    """
    real_table, synthetic_table = images.read(config.real, False), images.read(config.synthetic, True)
    lpips = pairs.load_lpips(config.lpips) if config.lpips != "none" else None
    folder = Path(config.output_dir)
    accelerator = Accelerator()
    extractor = features.load(config.extractor, accelerator.device)
    claim_together(accelerator, folder, config)
    without_classes = [t for t in (real_table, synthetic_table) if not (t["dx"] != "").any()]
    if len(without_classes) == 1:  # then the classes of the other side cannot be matched
        real_table, synthetic_table = real_table.assign(dx=""), synthetic_table.assign(dx="")
    real, synthetic = (
        features.features(extractor, t, accelerator, config.batch_size, cache_dir=config.cache_dir)
        for t in (real_table, synthetic_table)
    )
    shown = set(synthetic_table["dx"])
    if shown & set(real_table["dx"]):
        real = real.take(np.flatnonzero(real_table["dx"].isin(shown)))
    parts = _parts(real, synthetic, extractor)
    if min(len(parts["held_out"]), len(synthetic)) < scores.MIN_IMAGES:
        classes = ", ".join(sorted(shown - {""})) or "any"
        raise InputError(
            f"scores need at least {scores.MIN_IMAGES} images on each side; {config.synthetic} has {len(synthetic)}, "
            f"{config.real} has {len(parts['held_out'])} held-out ones of its classes ({classes})"
        )
    faults, notes = comparable.check(real_table, parts["held_out"].table, synthetic_table, config.synthetic)
    entries, too_few = _score_groups(parts, config, accelerator.device)
    found = {
        "real": config.real,
        "synthetic": config.synthetic,
        "extractor": {
            "name": extractor.name,
            "revision": extractor.revision,
            "resolution": extractor.resolution,
            "resize": features.RESIZE,
        },
        "methods": {
            "kid": "unbiased estimate over all images, the mean over all subsets",
            "precision and recall": f"{scores.PRECISION_K} nearest neighbours",
            "density and coverage": f"{scores.DENSITY_K} nearest neighbours",
            "intervals": "from each image's influence, on both sides, real images by lesion; those of precision, "
            "recall, density and coverage are cautious: wider than needed rather than narrower",
        },
        **manifest.split_facts(config.real),
        "images": manifest.identity(synthetic_table),
        "reference": {
            "sources": sorted(set(parts["held_out"].table["source"]) - {""}),
            "splits": sorted(set(parts["held_out"].table["split"]) - {""}),
            "sha256": manifest.identity(parts["held_out"].table)["sha256"],
        },
        "warnings": [
            *(f"{fault.reason}: do not trust the scores" for fault in faults),
            *notes,
            *_warnings(config, extractor, parts, entries[0]),
        ],
        "examples": [fault.example for fault in faults],  # of the first warnings, without which those can be shared
        "groups": entries,
        "too_few": too_few,
        "pairs": _pairs(parts, config, lpips),
    }
    if accelerator.is_main_process:
        write_json(folder / "evaluation.json", found)
        manifest.write_csv(_rows(found), folder / "scores.csv")
        _draw(found, folder / "plots")
        print(as_text(found))
    accelerator.wait_for_everyone()
    return found


def _score_groups(
    parts: dict[str, features.FeatureSet], config: EvaluateConfig, device: torch.device
) -> tuple[list[dict], list[dict]]:
    """Scores of all images and of every class and subgroup, and the groups that are too small for them."""
    groups = {name: images.subgroups(part.table) for name, part in parts.items()}
    entries, too_few = [], []
    for scope, group in _scopes(groups["held_out"], groups["synthetic"]):
        inside = {
            name: part if scope == "all" else part.take(np.flatnonzero(groups[name][scope] == group))
            for name, part in parts.items()
        }
        inside["synthetic"] = _of_shared_classes(inside["synthetic"], inside["held_out"])
        reference = features.of_same_mix(inside["held_out"], inside["synthetic"], config.seed)
        counts = {
            "scope": scope,
            "group": group,
            "n_real": len(reference),
            "n_synthetic": len(inside["synthetic"]),
        }
        if scope == "all" and min(counts["n_real"], counts["n_synthetic"]) < scores.MIN_IMAGES:
            raise InputError(
                f"no class has {scores.MIN_IMAGES} images on each side: {config.real} has {len(inside['held_out'])} "
                f"held-out images of {config.synthetic}'s classes"
            )
        if (lesions := reference.table["group"].nunique()) < 2 and scope == "all":
            raise InputError(f"{config.real} has held-out images of a single lesion or patient: scores need several")
        # Of one lesion nobody knows how much the scores of others would differ.
        if lesions < 2 or (scope != "all" and min(counts["n_real"], counts["n_synthetic"]) < config.min_images):
            too_few.append(counts)
        else:
            entries.append(counts | _compare(reference, inside, config.seed, device))
    return entries, too_few


def _scopes(real: pd.DataFrame, synthetic: pd.DataFrame) -> list[tuple[str, str]]:
    """All images, then every value of every subgroup that occurs on both sides."""
    both = [
        (scope, value)
        for scope in real.columns
        for value in sorted(set(real[scope]) & set(synthetic[scope]))
        if value and (scope != "class" or real[scope].nunique() > 1)
    ]
    return [("all", ""), *both]


def _parts(
    real: features.FeatureSet, synthetic: features.FeatureSet, extractor: features.Extractor
) -> dict[str, features.FeatureSet]:
    """The sets that are compared: held-out, training and synthetic images, and the real ones that stand in for these.

    Stand-ins are real images beside the held-out ones that did not shape the extractor, to which they would look other
    than new ones do. Without any, the held-out images are halved by lesion.
    """
    of = images.reference_sets(real.table)
    held_out = of["held_out"]
    other = np.setdiff1d(np.arange(len(real)), held_out)
    stand_in = other[~real.table["image_id"].iloc[other].isin(extractor.trained_on).to_numpy()]
    if not len(stand_in):
        lesions = real.table["group"].iloc[held_out]
        dealt = splits.split_groups(real.table["dx"].iloc[held_out], lesions, {"stand_in": 0.5, "held_out": 0.5}, 0)
        stand_in = held_out[dealt == "stand_in"]
    parts = {"held_out": held_out, "train": of["train"], "stand_in": stand_in}
    return {name: real.take(rows) for name, rows in parts.items()} | {"synthetic": synthetic}


def _of_shared_classes(synthetic: features.FeatureSet, held_out: features.FeatureSet) -> features.FeatureSet:
    """The images of classes that both sides show often enough to be compared."""
    counts = [part.table["dx"].value_counts() for part in (synthetic, held_out)]
    often = [set(c.index[c >= scores.MIN_IMAGES]) for c in counts]
    return synthetic.take(np.flatnonzero(synthetic.table["dx"].isin(often[0] & often[1])))


def _compare(held_out: features.FeatureSet, inside: dict[str, features.FeatureSet], seed: int, device) -> dict:
    """Scores against held-out images, against as many training images, and of real images in the synthetic ones' place.

    Most scores depend on how many images there are, so each of these comparisons is of equal numbers.
    """
    synthetic = inside["synthetic"]
    found = _all_scores(held_out, synthetic, device)
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
    for name, score in found.items():
        low, high = score.interval(held_out.table["group"])
        entries[name] = {
            "value": score.value,
            "low": low,
            "high": high,
            "train": against_train[name].value if name in against_train and name not in OF_ONE_SET else None,
            "floor": floor[name].value if name in floor else None,
            "at_floor_n": at_floor[name].value if name in at_floor else None,
        }
    reliable = min(len(held_out), len(synthetic)) >= scores.FID_RELIABLE
    return {
        "n_train": len(train),
        "n_floor": len(stand_in) if enough else 0,
        "n_floor_reference": len(reference) if enough else 0,
        "fid_reliable": reliable,
        "scores": entries,
    }


def _all_scores(reference: features.FeatureSet, judged: features.FeatureSet, device) -> dict[str, scores.Score]:
    found, _ = scores.compare(reference.features, judged.features, device)
    found |= {"vendi": scores.vendi(judged.features), "mean_cosine": scores.mean_cosine(judged.features)}
    if judged.logits.shape[1]:
        found["inception_score"] = scores.inception_score(judged.logits)
    return found


def _pairs(parts: dict[str, features.FeatureSet], config: EvaluateConfig, lpips) -> dict:
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

    def alike(judged: features.FeatureSet, partners: Sequence[int]) -> dict[str, list[float]]:
        drawn, theirs = images.pixels(judged.table, side), images.pixels(base.table.iloc[partners], side)
        return pairs.similarities(drawn, theirs, lpips)

    nearest = alike(chosen, products.nearest(chosen.features, base.features, 1)[1][:, 0])
    floor = alike(held_out, products.nearest(held_out.features, base.features, 1)[1][:, 0]) if len(held_out) else {}
    labels = chosen.table["dx"].to_numpy()
    return {
        "n": len(chosen),
        "n_floor": len(held_out),
        "resolution": side,
        "resize": features.RESIZE,
        "against": against,
        "nearest": {name: _median(values) for name, values in nearest.items()},
        "floor": {name: _median(values, held_out.table["group"]) for name, values in floor.items()},
        "random": {name: _median(values) for name, values in alike(chosen, random).items()},
        "nearest_per_class": {
            dx: {name: _median(np.array(values)[labels == dx]) for name, values in nearest.items()}
            for dx in sorted(set(labels) - {""})
        },
    }


def _apart(part: features.FeatureSet, from_: features.FeatureSet) -> np.ndarray:
    """Rows of `part` whose lesions have no image in the other set."""
    return np.flatnonzero(~part.table["group"].isin(set(from_.table["group"])))


def _median(values: Sequence[float], groups: Sequence[Hashable] | None = None) -> dict[str, float | None]:
    """Median and bootstrap interval, drawn by `groups` if there are; None where it is infinite, as the PSNR of equal
    images."""
    values = np.asarray(values, float)
    weights = statistics.resampled_weights(np.arange(len(values)) if groups is None else groups, 1000, 0)
    order = np.argsort(values, kind="stable")
    reached = weights[:, order].cumsum(axis=1)
    medians = values[order][(reached >= reached[:, -1:] / 2).argmax(axis=1)]
    # inverted_cdf takes one of the values and never the difference of two infinite ones
    interval = np.quantile(medians, [0.025, 0.975], method="inverted_cdf")
    found = [float(np.median(values)), *map(float, interval)]
    return {k: v if np.isfinite(v) else None for k, v in zip(("value", "low", "high"), found, strict=True)}


def _side(path: str) -> int:
    from PIL import Image

    with Image.open(path) as image:
        return min(image.size)


def _warnings(
    config: EvaluateConfig, extractor: features.Extractor, parts: dict[str, features.FeatureSet], overall: dict
) -> list[str]:
    notes = []
    if not (parts["synthetic"].table["dx"] != "").any():
        notes.append("one side does not tell its classes, so a different mix of them counts as a difference")
    left_out = set(parts["synthetic"].table["dx"]) - {""}
    left_out -= set(_of_shared_classes(parts["synthetic"], parts["held_out"]).table["dx"])
    if left_out:
        notes.append(
            f"classes with under {scores.MIN_IMAGES} images on a side are left out: {', '.join(sorted(left_out))}"
        )
    if overall["n_real"] < len(parts["held_out"]):
        notes.append(
            f"{overall['n_real']} of {len(parts['held_out'])} held-out images are the reference, as many as have the "
            "synthetic set's shares of the classes"
        )
    if overall["n_floor"] and overall["n_floor"] < overall["n_synthetic"]:
        notes.append(
            f"the floor is of {overall['n_floor']} real images, all there are; compare it with the column of as many "
            "synthetic ones, since all scores but KID and precision depend on the number"
        )
    if set(parts["held_out"].table["image_id"]) & extractor.trained_on:
        notes.append("the extractor was trained on held-out images: its scores are not to be trusted")
    if set(parts["train"].table["image_id"]) & extractor.trained_on:
        notes.append(
            "the extractor was trained on the training split, to which every other image looks new: its column says "
            "little, and the floor is of other real images"
        )
    if not overall["fid_reliable"]:
        n = min(overall["n_real"], overall["n_synthetic"])
        notes.append(f"FID of {n} images is unreliable (under {scores.FID_RELIABLE:,}): go by KID")
    notes += manifest.split_warnings(manifest.split_facts(config.real))
    filtered = Path(config.synthetic, "filter.json")
    if filtered.exists() and json.loads(filtered.read_text())["scorer_revision"] == extractor.revision:
        notes.append("the synthetic set was filtered by this same network, which flatters it: take another extractor")
    return notes


def _rows(found: dict) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                **{k: entry[k] for k in ("scope", "group")},
                "score": name,
                **values,
                **{k: entry[k] for k in ("n_real", "n_train", "n_synthetic", "n_floor")},
                "extractor": found["extractor"]["name"],
                "revision": found["extractor"]["revision"],
                "resize": found["extractor"]["resize"],
            }
            for entry in found["groups"]
            for name, values in entry["scores"].items()
        ]
    )


def as_text(found: dict) -> str:
    """The overall scores, and KID with coverage of every group, for a terminal."""
    overall = found["groups"][0]
    e = found["extractor"]
    lines = [
        f"{overall['n_synthetic']} synthetic images against {overall['n_real']} held-out real ones; features of "
        f"{e['name']} ({e['revision']}) at {e['resolution']} px, {e['resize']}",
        *(f"note: {w}" for w in found["warnings"]),
        *(f"      for example {example}" for example in found["examples"]),
        "",
        " " * 18 + f"{'value (95 % interval)':>34}{'real for real':>16}{'at its number':>16}{'train split':>14}",
    ]
    for name, s in overall["scores"].items():
        value = f"{s['value']:.4g} ({s['low']:.4g} to {s['high']:.4g})"
        cells = f"{_number(s['floor']):>16}{_number(s['at_floor_n']):>16}{_number(s['train']):>14}"
        lines.append(f"{name:18}{value:>34}{cells}   {BEST[name]} is best")
    if len(found["groups"]) > 1:
        lines += ["", f"{'':28}{'real':>6}{'synth.':>8}{'KID':>30}{'floor':>10}{'coverage':>10}{'floor':>8}"]
    for g in found["groups"][1:]:
        kid, coverage = g["scores"]["kid"], g["scores"]["coverage"]
        interval = f"{kid['value']:.4g} ({kid['low']:.3g} to {kid['high']:.3g})"
        lines.append(
            f"{g['scope']:>12}: {g['group']:14}{g['n_real']:>6}{g['n_synthetic']:>8}{interval:>30}"
            f"{_number(kid['floor'], 3):>10}{coverage['value']:>10.2f}{_number(coverage['floor'], 2):>8}"
        )
    if found["too_few"]:
        named = ", ".join(f"{t['scope']} {t['group']} ({t['n_real']} and {t['n_synthetic']})" for t in found["too_few"])
        lines.append(f"too few images for scores of their own: {named}")
    p = found["pairs"]
    lines += ["", f"Pixel by pixel, medians over {p['n']} images at {p['resolution']} px:"]
    lines.append(f"{'':18}{'nearest real':>14}{'real for real':>16}{'random real':>14}")
    for name, s in p["nearest"].items():
        floor = p["floor"].get(name, {}).get("value")
        lines.append(f"{name:18}{_number(s['value']):>14}{_number(floor):>16}{_number(p['random'][name]['value']):>14}")
    return "\n".join(lines)


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}g}"


def _draw(found: dict, folder: Path) -> None:
    groups = found["groups"]
    labels = [f"{g['scope']}: {g['group']}".strip(": ") + f" ({g['n_synthetic']})" for g in groups]
    for name in ("kid", "precision", "recall", "density", "coverage"):
        dots = [
            plots.Dot(label, *(g["scores"][name][k] for k in ("value", "low", "high")))
            for label, g in zip(labels, groups, strict=True)
        ]
        floors = [
            plots.Dot(label, *[g["scores"][name]["floor"]] * 3)
            for label, g in zip(labels, groups, strict=True)
            if g["scores"][name]["floor"] is not None
        ]
        plots.dots(folder / f"{name}.png", name, name, {"synthetic": dots, "real in its place": floors})
