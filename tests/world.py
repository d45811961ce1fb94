"""Runs and sets to be published: tiny, but each trained, drawn and audited by the real commands."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import small

from dermgen.data import manifest
from dermgen.evaluate.audit import AuditConfig, audit
from dermgen.evaluate.evaluate import EvaluateConfig, evaluate
from dermgen.generation.generate import generate
from dermgen.settings.generate import GenerateConfig


@dataclass(frozen=True)
class World:
    """A manifest under CC BY-NC, a DDPM trained on it, the images that it generated, and their results."""

    real: Path
    run: Path
    drawn: Path
    results: Path


def build(manifest_dir: Path, place: Path) -> World:
    real = non_commercial(manifest_dir, place / "ham")
    small.train("ddpm", real, place / "runs" / "ddpm", max_train_steps=1)
    drawn = draw(place / "runs" / "ddpm", place / "drawn", num_inference_steps=2)
    return World(real, place / "runs" / "ddpm", drawn, judge(real, drawn, place / "results"))


def non_commercial(source: Path, folder: Path) -> Path:
    """A copy of a manifest of phantoms that says it was HAM10000, with patients."""
    shutil.copytree(source, folder)
    table = manifest.read(folder)
    table = table.assign(source="HAM10000", license="CC BY-NC 4.0", patient_id=[f"Pat_{i}" for i in table["lesion_id"]])
    manifest.write(table, folder)
    return folder


def draw(run: Path, folder: Path, classes="mel:50,nv:50", **settings) -> Path:
    return generate(GenerateConfig(model=str(run), output_dir=str(folder), classes=classes, **settings))


def judge(real: Path, drawn: Path, results: Path, scores: bool = True) -> Path:
    both = {"real": str(real), "synthetic": str(drawn)}
    audit(AuditConfig(**both, output_dir=str(results / "audit"), max_copy_rate=0.1))
    if scores:
        folder = str(results / "scores")
        evaluate(EvaluateConfig(**both, output_dir=folder, extractor="pixels", lpips="none", min_images=10))
    return results


def changed(folder: Path, target: Path, **columns) -> Path:
    """A copy of a manifest folder with other values in some columns."""
    shutil.copytree(folder, target)
    manifest.write(manifest.read(target).assign(**columns), target)
    return target


def change(path: Path, **facts) -> None:
    """Change facts in a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
