"""`dermgen demo`: the whole way from images to a report, as one would work with images of patients."""

import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dermgen import recipes, shipped
from dermgen.data import manifest, preprocess
from dermgen.data.sheets import contact_sheet
from dermgen.data.subsets import subset
from dermgen.publish.after_training import finish
from dermgen.settings.demo import DemoConfig
from dermgen.settings.methods import METHODS

LOG, PICTURE = "log.txt", "demo.png"
COLUMNS = 8  # of the picture
AUDIT_STATUS = {2: "too many copies", 3: "too few held-out images to tell"}


@dataclass(frozen=True)
class Stage:
    """A command of the demo.

    Attributes:
        does: what it is for.
        command: as typed after `dermgen`; `{out}` stands for the demo's folder, `{recipes}` for that of the recipes.
        look: what there is to see afterwards.
    """

    does: str
    command: str
    look: str


STAGES = (
    Stage(
        "Draw 350 lesions of 7 classes; no patient is involved",
        "phantom --output_dir {out}/phantoms --num_lesions 350",
        "{out}/phantoms",
    ),
    Stage(
        "Crop them to 64 px, write captions, split by lesion",
        "prepare ham10000 --data_dir {out}/phantoms --output_dir {out}/manifest --resolution 64 --crop lesion",
        "{out}/manifest/sheets",
    ),
    Stage(
        "Fine-tune the base model on 25 images of a class it has never seen (DreamBooth-LoRA, prior preservation)",
        "train dreambooth_lora_tiny --data_dir {out}/manifest --output_dir {out}/lora_vasc "
        "--class_data_dir {out}/class_images --cache_dir {out}/cache",
        "{out}/lora_vasc/samples",
    ),
    Stage(
        "Generate that class, and two that the base model knew",
        "generate --model {out}/lora_vasc --output_dir {out}/synthetic --classes vasc:64,mel:32,nv:32 "
        "--guidance_scale 2 --num_inference_steps 20 --batch_size 32",
        "{out}/synthetic/sheets",
    ),
    Stage(
        "Generate the same two classes without the fine-tuning",
        "generate --model phantom --output_dir {out}/before --classes mel:32,nv:32 "
        "--guidance_scale 2 --num_inference_steps 20 --batch_size 32",
        "{out}/before/sheets",
    ),
    Stage(
        "Train a classifier on the real images, to judge with",
        "train classifier_tiny --data_dir {out}/manifest --output_dir {out}/classifier",
        "{out}/classifier/results.json",
    ),
    Stage(
        "Score the generated images against held-out real ones",
        "evaluate --real {out}/manifest --synthetic {out}/synthetic --output_dir {out}/scores "
        "--extractor {out}/classifier --lpips none",
        "{out}/scores/scores.csv",
    ),
    Stage(
        "Score those of the base model likewise",
        "evaluate --real {out}/manifest --synthetic {out}/before --output_dir {out}/scores_before "
        "--extractor {out}/classifier --lpips none",
        "{out}/scores_before/scores.csv",
    ),
    Stage(
        "Look for copies of training images",
        "audit --real {out}/manifest --synthetic {out}/synthetic --output_dir {out}/audit --max_copy_rate 0.1",
        "{out}/audit/sheets/closest.png",
    ),
    Stage(
        "Keep the better half",
        "filter --real {out}/manifest --synthetic {out}/synthetic --output_dir {out}/filtered --scorer classifier "
        "--run {out}/classifier --extractor pixels --keep 0.5",
        "{out}/filtered/sheets/kept_and_dropped.png",
    ),
    Stage(
        "Train classifiers with and without the generated images, and test the difference",
        "study --config {recipes}/study_tiny.yaml --real {out}/manifest --synthetic {out}/filtered "
        "--output_dir {out}/study",
        "{out}/study/plots",
    ),
    Stage("Put everything on one page", "report {out} --output_dir {out}/report", "{out}/report/report.html"),
)


def demo(config: DemoConfig, commands: Mapping[str, Callable[[list[str]], None]]) -> None:
    """Run the stages, each with a line of what it does, how long it took, and where to look.

    Args:
        config: where.
        commands: of `dermgen`, by name. Trainings run in this process, which has loaded all libraries.

    Raises:
        InputError: as the commands do.
    """
    out = Path(config.output_dir)
    out.mkdir(parents=True, exist_ok=True)
    commands = {**commands, "train": _train}
    folder = shipped.folder(recipes.CONFIGS)
    start = time.monotonic()
    print(f"{len(STAGES)} stages, about five minutes on two CPU cores. What they print goes to {out / LOG}")
    for number, stage in enumerate(STAGES, 1):
        words = shlex.split(stage.command.format(out=shlex.quote(str(out)), recipes=shlex.quote(str(folder))))
        print(f"\n{number:>2}. {stage.does}\n    dermgen {shlex.join(words)}", flush=True)
        began = time.monotonic()
        with _output_in(out / LOG):
            status = _status(commands[words[0]], words[1:])
        print(f"    {time.monotonic() - began:.0f} s{status}, see {stage.look.format(out=out)}", flush=True)
    _picture(out)
    print(f"\nDone in {_minutes(time.monotonic() - start)}. Open {out / 'report' / 'report.html'}, see {out / PICTURE}")


def _picture(out: Path) -> None:
    """Real lesions of the new class, then generated ones, then generated ones of classes that the base model knew."""
    rows = [("manifest", "vasc", "real"), *(("synthetic", dx, "generated") for dx in ("vasc", "mel", "nv"))]
    pictures, captions = [], []
    for folder, dx, kind in rows:
        table = manifest.read_images(out / folder, synthetic_set=folder == "synthetic").query("dx == @dx")
        for path in subset(table, COLUMNS, 0)["path"]:
            pictures.append(Image.fromarray(preprocess.read_image(Path(path))).resize((96, 96)))
            captions.append(f"{dx}, {kind}")
    contact_sheet(pictures, out / PICTURE, COLUMNS, captions)


def _train(argv: Sequence[str]) -> None:
    """As `dermgen train` does, without a process of its own."""
    recipe = recipes.read(argv[0], flags=argv[1:])
    METHODS[recipe.method].load().train(recipe.settings)
    finish(recipe.settings)


def _status(command: Callable[[list[str]], None], argv: list[str]) -> str:
    """Run the command; what it says by its exit status, which is that of a judgement and not of a mistake."""
    try:
        command(argv)
    except SystemExit as end:
        if command.__name__ != "audit" or end.code not in AUDIT_STATUS:
            raise
        return f", {AUDIT_STATUS[end.code]}"
    return ""


@contextmanager
def _output_in(path: Path) -> Iterator[None]:
    """Within the block all that this process and its children print goes to the end of a file."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    kept = [os.dup(number) for number in (1, 2)]
    with open(path, "ab") as log:
        for number in (1, 2):
            os.dup2(log.fileno(), number)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number, earlier in enumerate(kept, 1):
            os.dup2(earlier, number)
            os.close(earlier)


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"
