"""Every generative method with the same training time on the same split, sampled and scored alike: one table.

    python benchmarks/compare_methods.py --data_dir data/ham10000_64 --classifier runs/classifier --minutes 60

Each method trains at 64 pixels for `--minutes` with its tiny recipe, widened by `METHODS`, is then stopped as by
Ctrl-C, and generates as many images as the test split has, or `--num_images`, in its class shares. A CycleGAN
translates nevi of the train split to melanomas; a Stable Diffusion trains on at most 1,000 images of a class. Features
are those of a classifier trained on the same train split, or of any extractor of `dermgen evaluate`. Peak memory is
that of the process on the host. The same command resumes.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from dermgen.data import manifest
from dermgen.data.loading import LesionSet, to_uint8, to_unit_range
from dermgen.data.subsets import subset
from dermgen.evaluate import features
from dermgen.evaluate.pairs import similarities
from dermgen.stable_diffusion.pipeline import load_pipeline
from dermgen.training.run_record import RunRecord

ROOT = Path(__file__).parent.parent
ENDLESS = 10_000_000
# Per method: its script and recipe, whether a class can be asked for, and what a resolution of 64 pixels needs.
METHODS = {
    "vae": ("vae", "vae_tiny", True, "--channels 32 64 128 256 --latent_dim 128 --kl_weight 0.3"),
    "vae_dense": ("vae", "vae_tiny", True, "--architecture dense --latent_dim 128"),
    "dcgan": ("dcgan", "dcgan_tiny", False, "--class_conditional False --generator_channels 64"),
    "cgan": ("dcgan", "dcgan_tiny", True, "--generator_channels 64"),
    "stylegan2": ("stylegan2", "stylegan2_tiny", True, "--channel_base 2048 --latent_dim 128"),
    "ddpm": ("ddpm", "ddpm_tiny", True, "--channels 32 64 96 128 --attention_resolutions 8"),
    "cyclegan": ("cyclegan", "cyclegan_tiny", False, "--class_a nv --class_b mel --residual_blocks 6 --decay_start 1"),
    "stable_diffusion": (None, None, True, "--autoencoder_channels 32 64 96 --max_images_per_class 1000"),
}
SCORES = ("fid", "kid", "precision", "recall", "density", "coverage", "inception_score")
NEAREST = ("nearest_ssim", "nearest_lpips")
SHARED = (
    "--lr_scheduler constant --validation_steps 10000000 --checkpointing_steps 10000000 --logging_steps 10 "
    "--report_to none --checkpoints_total_limit 1"
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="manifest folder")
    parser.add_argument("--classifier", required=True, help="features of the scores: a classifier run, or an extractor")
    parser.add_argument("--minutes", type=float, default=10, help="of training for each method")
    parser.add_argument("--num_images", type=int, default=None, help="drawn by each; default as the test split has")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--lpips", choices=("none", "alex", "vgg"), default="none", help="LPIPS to the nearest image")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/compare_methods"))
    args = parser.parse_args()
    settings = {k: str(v) for k, v in vars(args).items() if k not in ("methods", "output_dir")}
    path = args.output_dir / "settings.json"
    if path.exists() and json.loads(path.read_text()) != settings:
        sys.exit(f"{args.output_dir} has results of other settings ({path.read_text()}): choose another --output_dir")
    args.output_dir.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings))
    rows = []
    for name in args.methods:
        folder = args.output_dir / name
        result = folder / "result.json"
        if not result.exists():
            folder.mkdir(parents=True, exist_ok=True)
            result.write_text(json.dumps(compare(name, folder, args), indent=2))
        rows.append({"method": name, **json.loads(result.read_text())})
        print(table(rows), flush=True)
    (args.output_dir / "table.md").write_text(table(rows) + "\n")


def compare(name: str, folder: Path, args: argparse.Namespace) -> dict:
    trained = folder / "train.json"
    if not trained.exists():
        found = train_stable_diffusion(folder, args) if METHODS[name][0] is None else train(name, folder, args)
        trained.write_text(json.dumps(found))
    found = json.loads(trained.read_text())
    found |= draw(name, folder, args)
    both = f"--real {args.data_dir} --synthetic {folder / 'images'} --output_dir {folder}"
    run(f"-m dermgen.cli evaluate {both}/scores --extractor {args.classifier} --lpips {args.lpips}")
    run(f"-m dermgen.cli audit {both}/audit --max_copy_rate 0.99")
    evaluation = json.loads((folder / "scores" / "evaluation.json").read_text())
    overall, pairs = evaluation["groups"][0], evaluation["pairs"]
    audit = json.loads((folder / "audit" / "audit.json").read_text())
    found["scores"] = overall["scores"]
    for measure in ("ssim", "lpips"):
        if measure in pairs["nearest"]:
            both = {"value": pairs["nearest"][measure]["value"], "floor": pairs["floor"][measure]["value"]}
            found[f"nearest_{measure}"] = both
    found["n_real"], found["n_synthetic"] = overall["n_real"], overall["n_synthetic"]
    found["copies"] = {key: audit[key] for key in ("copies", "n", "low", "high", "median_distance")}
    return found | agreement(folder, args) | reconstructions(name, folder, args)


def train(name: str, folder: Path, args: argparse.Namespace) -> dict:
    """Train until the time is up, stop, and let the same command write the final weights."""
    script, recipe, _, flags = METHODS[name]
    command = (
        f"train_scripts/{script}.py --config train_scripts/configs/{recipe}.yaml {SHARED} --data_dir {args.data_dir} "
        f"--output_dir {folder / 'run'} --resolution 64 {flags}"
    )
    stopped = run_for(f"{command} --max_train_steps {ENDLESS}", folder / "run", args.minutes * 60, folder / "train.log")
    run(f"{command} --max_train_steps {stopped['steps']}")
    return stopped | {"parameters": RunRecord.read(folder / "run").parameters}


def train_stable_diffusion(folder: Path, args: argparse.Namespace) -> dict:
    """A third of the time for the autoencoder, the rest for the UNet and the text encoder."""
    flags = METHODS["stable_diffusion"][3]
    command = f"-m dermgen.cli tiny --data_dir {args.data_dir} --output_dir {folder / 'run'} --report_to none {flags}"
    stages, seconds = folder / "run" / "stages", args.minutes * 60
    first = run_for(f"{command} --autoencoder_steps {ENDLESS}", stages / "autoencoder", seconds / 3, folder / "1.log")
    command += f" --autoencoder_steps {first['steps']}"
    second = run_for(f"{command} --unet_steps {ENDLESS}", stages / "text_to_image", seconds * 2 / 3, folder / "2.log")
    run(f"{command} --unet_steps {second['steps']}")
    pipeline = load_pipeline(str(folder / "run"))
    networks = (pipeline.unet, pipeline.vae, pipeline.text_encoder)
    return second | {
        "steps": f"{first['steps']} + {second['steps']}",
        "peak_mib": max(first["peak_mib"], second["peak_mib"]),
        "parameters": sum(p.numel() for network in networks for p in network.parameters()),
    }


def run_for(command: str, run_dir: Path, seconds: float, log: Path) -> dict:
    """Start a training and stop it when its time is up; returns steps, images per second and peak memory."""
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, *command.split()], cwd=ROOT, stdout=file, stderr=file)
    start, first = time.monotonic(), None
    while time.monotonic() - start < seconds:
        time.sleep(0.2)
        if process.poll() is not None:
            sys.exit(f"the training ended by itself:\n{log.read_text()[-1500:]}")
        if first is None and last_step(run_dir):
            first = time.monotonic(), last_step(run_dir)
    process.send_signal(signal.SIGINT)
    end, steps = time.monotonic(), last_step(run_dir)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    state = json.loads(next(run_dir.glob("checkpoint-*/dermgen_state.json")).read_text())
    if first is None:
        sys.exit("nothing was logged within the time: give more --minutes")
    rate = (steps - first[1]) * state["images_per_step"] / (end - first[0])
    return {"steps": state["step"], "images_per_second": rate, "peak_mib": usage.ru_maxrss / 1024}


def last_step(run_dir: Path) -> int:
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


def draw(name: str, folder: Path, args: argparse.Namespace) -> dict:
    test = manifest.select(manifest.read(args.data_dir), split="test")
    count = args.num_images or len(test)
    counts = {dx: max(8, round(count * share)) for dx, share in test["dx"].value_counts(normalize=True).items()}
    what = "--classes " + ",".join(f"{dx}:{n}" for dx, n in sorted(counts.items()))
    if name == "cyclegan":
        what = f"--init_images {args.data_dir} --num_images {count}"
    elif not METHODS[name][2]:
        what = f"--num_images {count}"
    guidance = {"stable_diffusion": "--guidance_scale 3", "ddpm": "--num_inference_steps 25"}.get(name, "")
    text = run(
        f"-m dermgen.cli generate --model {folder / 'run'} --output_dir {folder / 'images'} --batch_size 32 {what} "
        f"{guidance}"
    )
    rates = re.findall(r"([\d.]+) images/s", text)
    return {"sampled_per_second": float(rates[-1])}


def agreement(folder: Path, args: argparse.Namespace) -> dict:
    """Share of images that the classifier assigns to the requested class; None without classes."""
    extractor = features.load(args.classifier)
    made = manifest.read(folder / "images")
    if not extractor.classes or (made["dx"] == "").any():
        return {"agreement": None}
    dataset = LesionSet(
        made.assign(path=[str(folder / "images" / f) for f in made["file_name"]]),
        extractor.classes,
        extractor.resolution,
    )
    pixels = torch.stack([item["pixels"] for item in dataset])
    logits = np.concatenate([extractor.embed(part).numpy() for part in pixels.split(64)])
    guessed = logits[:, -extractor.num_classes :].argmax(1)
    return {"agreement": float((guessed == np.array(dataset.labels)).mean())}


def reconstructions(name: str, folder: Path, args: argparse.Namespace) -> dict:
    """Mean SSIM of held-out images and their reconstructions, for a method with an encoder."""
    path = folder / "run" / "reconstructions.json"
    if path.exists():
        return {"ssim": json.loads(path.read_text())["ssim"]["mean"]}
    if name != "stable_diffusion":
        return {"ssim": None}
    vae = AutoencoderKL.from_pretrained(folder / "run", subfolder="vae").eval()
    table = manifest.read(args.data_dir)
    val = subset(table[table["split"] == "val"], 256, 0)
    rows = val.assign(path=[str(args.data_dir / name) for name in val["file_name"]])
    pixels = torch.stack([item["pixels"] for item in LesionSet(rows, sorted(set(val["dx"])), 64)])
    with torch.no_grad():
        decoded = [vae.decode(vae.encode(to_unit_range(p)).latent_dist.mean).sample for p in pixels.split(64)]
    return {"ssim": float(np.mean(similarities(pixels, to_uint8(torch.cat(decoded)))["ssim"]))}


def run(command: str) -> str:
    """Run a Python command from the top folder; returns what it wrote to stderr and stdout."""
    result = subprocess.run([sys.executable, *command.split()], cwd=ROOT, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{command}\n{result.stderr[-3000:]}")
    return result.stderr + result.stdout


def table(rows: list[dict]) -> str:
    """The results as two Markdown tables: the cost of each method, and the scores of its images."""
    costs, worths = [], []
    for row in rows:
        costs.append(
            [
                row["method"],
                f"{row['parameters'] / 1e6:.1f}",
                str(row["steps"]),
                f"{row['images_per_second']:.1f}",
                f"{row['sampled_per_second']:.1f}",
                f"{row['peak_mib']:.0f}",
                f"{row['copies']['copies']} of {row['copies']['n']}",
                "" if row["agreement"] is None else f"{row['agreement']:.0%}",
                "" if row["ssim"] is None else f"{row['ssim']:.3f}",
            ]
        )
        nearest = [f"{row[k]['value']:.3f} ({row[k]['floor']:.3f})" if k in row else "" for k in NEAREST]
        worths.append([row["method"], *(interval(row["scores"], name) for name in SCORES), *nearest])
    cost_head = (
        "method | weights, M | steps | images/s in training | in sampling | peak MiB | copies | classifier agrees | "
        "SSIM of reconstructions"
    )
    worth_head = "method | " + " | ".join(SCORES) + " | SSIM to the nearest training image (floor)"
    if any("nearest_lpips" in row for row in rows):
        worth_head += " | LPIPS to it (floor)"
    else:
        worths = [cells[:-1] for cells in worths]
    return f"{_markdown(cost_head, costs)}\n\nScore (95 % interval; floor)\n\n{_markdown(worth_head, worths)}"


def interval(scores: dict, name: str) -> str:
    """A score with its interval and the floor, or "" if it is missing."""
    if name not in scores:
        return ""
    score = scores[name]
    floor = f"; {score['floor']:.2g}" if score.get("floor") is not None else ""
    return f"{score['value']:.3g} ({score['low']:.3g} to {score['high']:.3g}{floor})"


def _markdown(head: str, rows: list[list[str]]) -> str:
    rule = "|" + " --- |" * (head.count("|") + 1)
    return "\n".join([f"| {head} |", rule, *("| " + " | ".join(cells) + " |" for cells in rows)])


if __name__ == "__main__":
    main()
