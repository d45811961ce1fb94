"""What every command writes, recorded, so that two versions of the package can be compared.

    PYTHONPATH=OTHER_CHECKOUT python benchmarks/outputs.py write before.json
    python benchmarks/outputs.py compare before.json

Runs each command once on phantoms, from drawing them to writing the cards, with fixed seeds. The record holds the
SHA-256 of each file without times, the run's id, the command line, the version and this machine's paths, and also the
values of JSON, YAML and CSV, the lines of text, and what the command printed. `compare` runs the commands again, prints
every difference with its folder, file and key, and exits with 1 if there is one.
"""

import argparse
import csv
import difflib
import hashlib
import io
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chaos
import diffusers.loaders  # noqa: F401  (once, before the forks)
import pandas  # noqa: F401
import transformers  # noqa: F401
import yaml
from PIL import Image

STEPS = "--max_train_steps 4 --checkpointing_steps 2 --checkpoints_total_limit 1 --report_to none --output_dir {out}"
DATA = f"--data_dir manifest {STEPS}"
SCRATCH = f"{DATA} --num_sample_images 4 --validation_steps 2 --validation_images 8"
GAN = f"{SCRATCH} --monitor_samples 8 --ema_decay 0.9"
TEXT = (
    f"--pretrained_model_name_or_path tiny --resolution 32 {DATA} --train_batch_size 2 --validation_steps 2 "
    "--validation_prompt mole --num_validation_images 1 --ema_decay 0.9"
)
BOTH = "--real manifest --synthetic generate_ddpm --output_dir {out}"
PUBLISH = "--output_dir {out} --dry_run --evidence audit scores study --force 'for the record'"
# The folder that a command writes, and its words; a name of train_scripts/ stands for the script.
COMMANDS = {
    "phantoms": "phantom --output_dir {out} --num_lesions 140 --height 64",
    "manifest": "prepare ham10000 --data_dir phantoms --output_dir {out} --resolution 32 --num_workers 1 "
    "--split 0.4 0.1 0.5 --caption_synonyms",
    "tiny": "tiny --data_dir manifest --output_dir {out} --resolution 32 --autoencoder_channels 8 "
    "--unet_channels 32 64 --text_width 32 --autoencoder_steps 3 --unet_steps 3 --exclude_classes vasc "
    "--report_to none",
    "dreambooth": f"dreambooth {TEXT} --train_text_encoder --snr_gamma 5 --random_flip",
    "dreambooth_lora": f"dreambooth_lora {TEXT} --instance_class vasc --instance_prompt vascular --rank 2 "
    "--with_prior_preservation --class_prompt skin --class_data_dir class_images --num_class_images 4",
    "ddpm": f"ddpm {SCRATCH} --resolution 16 --channels 32 32 --layers_per_block 1 --attention_resolutions 8 "
    "--class_conditional --ema_decay 0.9",
    "vae": f"vae {SCRATCH} --resolution 16 --channels 8 16 --latent_dim 8 --only_classes mel",
    "dcgan": f"dcgan {GAN} --resolution 16 --generator_channels 8 --discriminator_channels 8 --latent_dim 8 "
    "--class_conditional",
    "stylegan2": f"stylegan2 {GAN} --resolution 16 --latent_dim 8 --mapping_layers 2 --channel_base 128 "
    "--channel_max 8 --r1_interval 2 --path_length_interval 2 --ada_target 0.6 --ada_kimg 1",
    "cyclegan": f"cyclegan {SCRATCH} --resolution 32 --generator_channels 4 --discriminator_channels 4 "
    "--residual_blocks 1 --class_a nv --class_b mel --pool_size 3",
    "classifier": f"classifier {DATA} --from_scratch --resolution 32 --width 32 --layers 1 --train_batch_size 8 "
    "--validation_steps 2",
    "generate_lora": "generate --model dreambooth_lora --output_dir {out} --classes vasc:3,mel:3 "
    "--num_inference_steps 2",
    "generate_grid": "generate --model tiny --output_dir {out} --grid grid.yaml --num_images 1 --num_inference_steps 4 "
    "--init_images manifest --init_split test --negative_prompt hair",
    "generate_ddpm": "generate --model ddpm --output_dir {out} --classes mel:40,nv:40 --num_inference_steps 2",
    "generate_vae": "generate --model vae --output_dir {out} --num_images 3 --weights best",
    "generate_stylegan2": "generate --model stylegan2 --output_dir {out} --num_images 3 --truncation 0.7",
    "generate_cyclegan": "generate --model cyclegan --output_dir {out} --init_images manifest --init_split val "
    "--direction b_to_a",
    "scores": f"evaluate {BOTH} --extractor pixels --lpips none",
    "scores_classifier": f"evaluate {BOTH} --extractor classifier --lpips none",
    "audit": f"audit {BOTH} --max_copy_rate 0.9",
    "filtered": f"filter {BOTH} --scorer features --extractor pixels",
    "filtered_gan": f"filter {BOTH} --scorer discriminator --run dcgan --extractor pixels --keep 0.5",
    "filtered_classifier": f"filter {BOTH} --scorer classifier --run classifier --extractor pixels",
    "study": f"study {BOTH} --classifier classifier.yaml --arms real+augment real real+augment+synthetic:0.5 "
    "--max_train_steps 4 --num_validations 2 --bootstrap_draws 100 --focus_class nv",
    "report": "report manifest tiny/stages dreambooth_lora ddpm dcgan cyclegan classifier generate_ddpm scores audit "
    "filtered study --output_dir {out}",
    **{
        f"published_{run}": f"publish model {run} --repo_id me/{run} {PUBLISH}"
        for run in "dreambooth_lora ddpm vae dcgan stylegan2 cyclegan classifier".split()
    },
    "published_set": f"publish dataset audit --repo_id me/set {PUBLISH} --include_real manifest",
    "inspected": "inspect generate_lora/images dreambooth_lora/samples",
    "doctor": "doctor --config ddpm.yaml",
}
INPUTS = {
    "grid.yaml": {"dx": ["mel", "nv"], "sex": ["female"], "age": [40, 60]},
    "classifier.yaml": {"data_dir": "x", "from_scratch": True, "resolution": 32, "width": 32, "layers": 1,
                        "train_batch_size": 8, "report_to": "none"},
    "ddpm.yaml": {"data_dir": "manifest", "resolution": 16, "channels": [32, 32], "layers_per_block": 1,
                  "attention_resolutions": [8], "output_dir": "unused"},
}  # fmt: skip


# In texts: the version, durations, speeds and sizes.
VOLATILE = re.compile(r"(?<=dermgen )\d[\w.+]*|[\d.,]+(?= (?:s|seconds|minutes|hours|images/s|[KMGT]i?B)\b)")
MOST_VALUES = 3000  # more of them are a vocabulary


def run(place: Path) -> dict[str, dict[str, dict]]:
    """Run all commands in the new folder `place`; the record of every file, by folder and name."""
    for name, settings in INPUTS.items():
        (place / name).write_text(yaml.safe_dump(settings))
    record = {}
    for out, line in COMMANDS.items():
        words, printed = shlex.split(line.format(out=out)), place / f"{out}.txt"
        status = chaos.ended(chaos.fork(lambda words=words, printed=printed: start(words, printed), place))
        log = (place / "log").rename(place / f"{out}.log")
        if "Traceback" in log.read_text() or (status and out not in ("audit", "doctor")):
            raise SystemExit(f"{line}\nexit status {status}:\n{log.read_text()[-3000:]}")
        files = [printed, *(p for p in sorted((place / out).rglob("*")) if p.is_file())]
        record[out] = {p.name if p == printed else str(p.relative_to(place / out)): describe(p, place) for p in files}
        record[out][printed.name]["values"] = {"exit status": status}
        print(f"{out}: {len(files)} files", file=sys.stderr)
    return record


def start(words: list[str], printed: Path) -> None:
    """Run a command in this process, which prints to a file of its own."""
    os.dup2(os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    if (chaos.SCRIPTS / f"{words[0]}.py").exists():
        chaos.run_script(words[0], words[1:])
    else:
        chaos.run_dermgen(words)


def describe(path: Path, place: Path) -> dict[str, Any]:
    """The SHA-256 of a file without volatile values, and its values by key, or its lines."""
    if path.suffix in (".json", ".jsonl", ".yaml", ".csv"):
        values = dict(flat(chaos.steady(parsed(path)), place))
        few = {"values": values} if len(values) <= MOST_VALUES else {}
        return {"sha256": digest(json.dumps(values, sort_keys=True).encode()), **few}
    if path.suffix in (".txt", ".md", ".html", ".j2"):
        text = re.sub(r"base64,([\w+/=]+)", lambda m: digest(m[1].encode()), path.read_text())
        lines = steady_text(re.sub(r"\b[0-9a-f]{32}\b", "", text), place).splitlines()
        return {"sha256": digest("\n".join(lines).encode()), "lines": lines}
    if path.suffix == ".png":
        with Image.open(path) as image:
            values = {"pixels": digest(image.tobytes()), "size": str(image.size)}
            values |= {name: steady_text(str(text), place) for name, text in image.info.items()}
        return {"sha256": digest(json.dumps(values).encode()), "values": values}
    return {"sha256": chaos.snapshot(path)[path.name]}


def parsed(path: Path) -> Any:
    text = path.read_text()
    if path.suffix == ".csv":
        return [dict(row) for row in csv.DictReader(io.StringIO(text))]
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)


def flat(value: Any, place: Path, key: str = "") -> Iterator[tuple[str, Any]]:
    """The values inside dictionaries and lists, each with its path."""
    if isinstance(value, dict | list) and value:
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if name != "dermgen":  # its version
                yield from flat(inner, place, f"{key}.{name}" if key else str(name))
    else:
        yield key, steady_text(value, place) if isinstance(value, str) else value


def steady_text(text: str, place: Path) -> str:
    return VOLATILE.sub("…", text.replace(str(place), "PLACE").replace(str(chaos.ROOT), "ROOT"))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def differences(before: dict, after: dict) -> Iterator[str]:
    """A line for each difference of two records: folder, file, key, before, after."""
    for folder in [*before, *(after.keys() - before.keys())]:
        old, new = before.get(folder, {}), after.get(folder, {})
        for file in sorted(old.keys() | new.keys()):
            one, other = old.get(file), new.get(file)
            if one is None or other is None:
                yield f"{folder}/{file}: {'only before' if other is None else 'only after'}"
            elif one != other:
                yield from (f"{folder}/{file}: {line}" for line in changes(one, other))


def changes(one: dict, other: dict) -> list[str]:
    """What differs between the two records of a file."""
    lines = difflib.unified_diff(one.get("lines", []), other.get("lines", []), "", "", lineterm="", n=0)
    told = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
    old, new = one.get("values", {}), other.get("values", {})
    for key in dict.fromkeys([*old, *new]):
        if old.get(key, "(none)") != new.get(key, "(none)"):
            told.append(f"{key}: {old.get(key, '(none)')!r} -> {new.get(key, '(none)')!r}")
    return told or [f"other bytes: {one['sha256'][:12]} -> {other['sha256'][:12]}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["write", "compare"])
    parser.add_argument("file", type=Path, help="the record, JSON")
    parser.add_argument("--keep", help="a new folder for what the commands write, which stays")
    args = parser.parse_args()
    place = Path(args.keep or tempfile.mkdtemp(prefix="outputs-")).resolve()
    place.mkdir(parents=True, exist_ok=True)
    before = json.loads(args.file.read_text()) if args.action == "compare" else {}
    print(f"of {chaos.ROOT}", file=sys.stderr)
    after = json.loads(json.dumps(run(place)))
    if not args.keep:
        shutil.rmtree(place)
    if args.action == "write":
        args.file.write_text(json.dumps(after, indent=1))
        return
    different = list(differences(before, after))
    print(*different, sep="\n")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
