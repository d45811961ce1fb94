"""Steps per second and peak memory of DreamBooth-LoRA, with caching on and off, and of a peer's script beside it.

    python benchmarks/dreambooth_step.py --model demo/base [--peer PATH/train_dreambooth_lora.py] [--steps 60]

Every contender runs in a process of its own, with the same command line: 25 instance and 25 class photographs of
600 x 450, batch 4 + 4, `--center_crop`, a fixed seed. Speed is taken between two runs of different length, so that
loading, caching and saving cancel; the cost of filling the cache is given beside it.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

from dermgen.data.phantom import draw_lesion

ROOT = Path(__file__).parent.parent


def photographs(folder: Path, code: str, count: int) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        image = draw_lesion(code, 1, i, 450)[0][0]
        Image.fromarray(image).save(folder / f"{i}.jpg", quality=95)


def measure(command: list[str], env: dict) -> tuple[float, float]:
    """Seconds and peak MiB of one process."""
    start = time.perf_counter()
    child = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    text = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed:\n{text.decode()[-3000:]}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="a Stable Diffusion folder; `make demo` makes demo/base")
    parser.add_argument("--peer", help="path of diffusers' examples/dreambooth/train_dreambooth_lora.py")
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps that are timed")
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
        photographs(work / "instance", "vasc", 25)
        photographs(work / "class", "nv", 25)
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "DERMGEN_CACHE": str(work / "cache"), "PYTHONWARNINGS": "ignore"}
        rows = {}
        for name, command in contenders.items():
            seconds, memory = {}, 0.0
            for steps in (4, 4 + args.steps):
                flags = f"""--pretrained_model_name_or_path {args.model} --instance_data_dir {work / "instance"}
                    --class_data_dir {work / "class"} --with_prior_preservation --num_class_images 25 --center_crop
                    --resolution {args.resolution} --train_batch_size 4 --max_train_steps {steps} --seed 0
                    --lr_warmup_steps 0 --checkpointing_steps 100000
                    --output_dir {work / name.replace(" ", "_").replace(",", "")}-{steps}""".split()
                prompts = ["--instance_prompt", "a vascular lesion", "--class_prompt", "a nevus"]
                seconds[steps], peak = measure([sys.executable, *command, *flags, *prompts], env)
                memory = max(memory, peak)
            rate = args.steps / (seconds[4 + args.steps] - seconds[4])
            rows[name] = {
                "steps_per_second": round(rate, 2),
                "peak_MiB": round(memory),
                "start_seconds": round(seconds[4], 1),
            }
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{os.cpu_count()} CPU cores, {platform.machine()}"
    )
    print(f"{device}; torch {torch.__version__}; {args.steps} steps of 4 + 4 images, {args.resolution} px")
    print(f"{'':<22}{'steps/s':>10}{'peak MiB':>10}{'start s':>10}")
    for name, row in rows.items():
        print(f"{name:<22}{row['steps_per_second']:>10}{row['peak_MiB']:>10}{row['start_seconds']:>10}")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
