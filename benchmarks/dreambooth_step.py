"""Steps per second and peak memory of DreamBooth-LoRA, with and without caching, beside another project's script.

    python benchmarks/dreambooth_step.py [--peer PATH/train_dreambooth_lora.py] [--steps 60] [--rounds 3]

Every contender runs in a process of its own, with the same command line: 24 instance and 24 class photographs of
600 x 450, batch 4 + 4, `--center_crop`, a fixed seed. The numbers are multiples of the batch, since the peer ends an
epoch with a smaller batch and would have less to do in a step. Speed is taken between two runs of different length, so
that loading, caching and saving cancel; contenders take turns, and the best round counts. CPU time measures the work of
a step where the wall clock depends on other programs.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from PIL import Image

from dermgen.data.phantom import draw_lesion
from dermgen.stable_diffusion.small import build_pipeline

ROOT = Path(__file__).parent.parent
PROMPTS = "a vascular lesion", "a nevus"


def photographs(folder: Path, code: str, count: int) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        image = draw_lesion(code, 1, i, 450)[0][0]
        Image.fromarray(image).save(folder / f"{i}.jpg", quality=95)


def model(folder: Path) -> str:
    """A pipeline of the size of `dermgen tiny`'s with random weights, which are as fast as trained ones."""
    torch.manual_seed(0)
    channels = [32, 64, 96]
    vae = AutoencoderKL(
        sample_size=64,
        block_out_channels=channels,
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        scaling_factor=0.5,
    )
    build_pipeline(vae, list(PROMPTS), sample_size=16).save_pretrained(folder)
    return str(folder)


def measure(command: list[str], env: dict) -> tuple[float, float, float]:
    """Seconds, CPU seconds and peak MiB of one process."""
    start = time.perf_counter()
    child = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    text = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed:\n{text.decode()[-3000:]}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="a Stable Diffusion folder; default one of random weights")
    parser.add_argument("--peer", help="path of diffusers' examples/dreambooth/train_dreambooth_lora.py")
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps that are timed")
    parser.add_argument("--rounds", type=int, default=3, help="the best of so many counts")
    parser.add_argument("--resolution", type=int, default=64)
    args = parser.parse_args()
    ours = str(ROOT / "train_scripts" / "dreambooth_lora.py")
    contenders = {
        "dermgen, cached": [ours],
        "dermgen, not cached": [ours, "--no_cache_latents", "--pre_compute_text_embeddings=false"],
    }
    if args.peer:
        contenders["peer"] = [args.peer]
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        photographs(work / "instance", "vasc", 24)
        photographs(work / "class", "nv", 24)
        base = args.model or model(work / "model")
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "DERMGEN_CACHE": str(work / "cache"), "PYTHONWARNINGS": "ignore"}
        few, many = 4, 4 + args.steps
        best: dict[str, dict[str, float]] = {name: {} for name in contenders}
        for _ in range(args.rounds):
            for name, command in contenders.items():
                found = {}
                for steps in (few, many):
                    shutil.rmtree(work / "run", ignore_errors=True)
                    flags = f"""--pretrained_model_name_or_path {base} --instance_data_dir {work / "instance"}
                        --class_data_dir {work / "class"} --with_prior_preservation --num_class_images 24 --center_crop
                        --resolution {args.resolution} --train_batch_size 4 --max_train_steps {steps} --seed 0
                        --lr_warmup_steps 0 --checkpointing_steps 100000 --output_dir {work / "run"}""".split()
                    prompts = ["--instance_prompt", PROMPTS[0], "--class_prompt", PROMPTS[1]]
                    found[steps] = measure([sys.executable, *command, *flags, *prompts], env)
                wall, cpu = ((found[many][i] - found[few][i]) / args.steps for i in (0, 1))
                measured = {
                    "step_seconds": wall,
                    "step_cpu_seconds": cpu,
                    "peak_MiB": found[many][2],
                    "start_seconds": found[few][0],
                }
                best[name] = {k: min(v, best[name].get(k, v)) for k, v in measured.items()}
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{os.cpu_count()} CPU cores, {platform.machine()}"
    )
    print(f"{device}; torch {torch.__version__}; {args.steps} steps of 4 + 4 images, {args.resolution} px")
    print(f"{'':<22}{'steps/s':>10}{'CPU ms/step':>13}{'peak MiB':>10}{'start s':>10}{'of the peer':>13}")
    peer = best.get("peer", {}).get("step_seconds")
    for name, row in best.items():
        ratio = f"{peer / row['step_seconds']:.2f} x" if peer else ""
        print(
            f"{name:<22}{1 / row['step_seconds']:>10.2f}{1000 * row['step_cpu_seconds']:>13.0f}{row['peak_MiB']:>10.0f}"
            f"{row['start_seconds']:>10.1f}{ratio:>13}"
        )
    print(json.dumps(best))


if __name__ == "__main__":
    main()
