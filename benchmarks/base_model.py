"""Make the built-in base model of a pipeline that `dermgen tiny` trained: half precision, scored, with its card.

    python benchmarks/base_model.py base/pipeline dermgen/models/phantom

The scores are taken on phantoms of all seven classes that the pipeline was not trained on, and by a classifier that is
trained on these. `make base` runs this last.
"""

import argparse
import hashlib
import json
import shutil
import tempfile
from pathlib import Path

import torch

from dermgen import recipes
from dermgen.config import write_json
from dermgen.data import manifest, trained_on
from dermgen.data.loading import PixelSet, to_unit_range
from dermgen.data.phantom import write_phantoms
from dermgen.data.prepare import prepare
from dermgen.evaluate.evaluate import evaluate
from dermgen.generation.generate import generate
from dermgen.sampling import evaluating
from dermgen.settings.evaluate import EvaluateConfig
from dermgen.settings.generate import GenerateConfig
from dermgen.settings.methods import METHODS
from dermgen.settings.phantom import PhantomConfig
from dermgen.settings.prepare import PrepareConfig
from dermgen.stable_diffusion.pipeline import load_pipeline

RECORDED = ("packages", "leaky", "data", "base_data", "data_fingerprint", "trained_parameters")
BLOCK = 8  # pixels; colours are compared in means over squares of this side, which no detail changes
PER_CLASS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pipeline", type=Path, help="folder that `dermgen tiny` wrote")
    parser.add_argument("model", type=Path, help="folder of the built-in model, which is replaced")
    args = parser.parse_args()
    pack(args.pipeline, args.model)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        write_phantoms(PhantomConfig(output_dir=str(work / "phantoms"), num_lesions=350))
        prepare(
            PrepareConfig(
                source="ham10000",
                data_dir=str(work / "phantoms"),
                output_dir=str(work / "real"),
                resolution=64,
                crop="lesion",
            )
        )
        facts = {
            **size(args.model),
            "color_error": color_errors(args.model, work / "real"),
            **samples(args.model, work),
        }
    write_json(args.model / "scores.json", facts)
    print(json.dumps(facts, indent=1))


def pack(pipeline: Path, model: Path) -> None:
    """The pipeline in half precision, without paths, and what it was trained on; its autoencoder saw the same images.

    The card, which is written by hand, stays.
    """
    for part in model.glob("*/"):
        shutil.rmtree(part)
    load_pipeline(str(pipeline), dtype=torch.float16).save_pretrained(model)
    for path in model.rglob("*.json"):
        facts = json.loads(path.read_text())
        if isinstance(facts, dict) and facts.pop("_name_or_path", None):
            write_json(path, facts)
    shutil.copyfile(pipeline / trained_on.OWN, model / trained_on.OWN)
    recorded = json.loads((pipeline / trained_on.FACTS).read_text())
    write_json(model / trained_on.FACTS, {name: recorded[name] for name in RECORDED})


def size(model: Path) -> dict:
    """Bytes of the folder, and SHA-256 of each file of weights."""
    files = sorted(p for p in model.rglob("*") if p.is_file())
    hashes = {
        p.relative_to(model).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in files
        if p.suffix == ".safetensors"
    }
    return {"bytes": sum(p.stat().st_size for p in files), "sha256": hashes}


def color_errors(model: Path, real: Path) -> dict[str, float]:
    """Mean distance of colours (RGB, levels of 255) between held-out images and their reconstructions, per class."""
    vae = load_pipeline(str(model)).vae
    table = manifest.read(real).query("split != 'train'").reset_index(drop=True)
    images = PixelSet([str(real / name) for name in table["file_name"]], list(table["image_id"]), 64)
    pixels = images.stack(range(len(images)))
    with evaluating(vae):
        decoded = torch.cat([vae.decode(vae.encode(x).latents).sample for x in to_unit_range(pixels).split(64)])
    difference = torch.nn.functional.avg_pool2d((to_unit_range(pixels) - decoded) * 127.5, BLOCK)
    distance = difference.norm(dim=1).mean((1, 2)).numpy()
    return {dx: round(float(distance[(table["dx"] == dx).to_numpy()].mean()), 2) for dx in sorted(set(table["dx"]))}


def samples(model: Path, work: Path) -> dict:
    """How a classifier of real phantoms, and KID in its features, judge images of the six classes."""
    recipe = recipes.read(
        "classifier_tiny", flags=["--data_dir", str(work / "real"), "--output_dir", str(work / "judge")]
    )
    METHODS[recipe.method].load().train(recipe.settings)
    classes = sorted(set(manifest.read(work / "real")["dx"]) - {"vasc"})
    generate(
        GenerateConfig(
            model=str(model),
            output_dir=str(work / "synthetic"),
            classes=",".join(f"{dx}:{PER_CLASS}" for dx in classes),
            guidance_scale=3.0,
            batch_size=32,
        )
    )
    result = evaluate(
        EvaluateConfig(
            real=str(work / "real"),
            synthetic=str(work / "synthetic"),
            output_dir=str(work / "scores"),
            extractor=str(work / "judge"),
            lpips="none",
        )
    )
    shown = {group.group or "all": group.scores for group in result.groups if group.scope in ("all", "class")}
    return {
        name: {
            group: {"value": round(scores[name].value, 4), "real": scores[name].floor and round(scores[name].floor, 4)}
            for group, scores in shown.items()
        }
        for name in ("recognised", "kid", "precision", "recall")
    }


if __name__ == "__main__":
    main()
