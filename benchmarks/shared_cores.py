"""Seconds of a training step on all cores, alone and beside one busy process, by the way its threads wait.

    python benchmarks/shared_cores.py [--steps 30]

The network is the UNet of `dermgen tiny`. A thread that has finished its share of an operation spins until the others
have; beside another process threads wait for one that is not running, and by spinning take the time that it needs.
"""

import argparse
import os
import statistics
import subprocess
import sys

CASES = {
    "the library's default": {},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "one thread fewer": {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) - 1))},
}
NETWORK = {"sample_size": 16, "in_channels": 8, "out_channels": 8, "block_out_channels": (64, 128, 192),
           "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
           "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
           "cross_attention_dim": 128, "layers_per_block": 1, "attention_head_dim": 8}  # fmt: skip


def train(steps: int) -> None:
    """In a separate process: print the median seconds of a step after three warm-up steps."""
    import time

    import torch
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(**NETWORK)
    optimizer = torch.optim.AdamW(unet.parameters())
    latents, prompts = torch.randn(16, 8, 16, 16), torch.randn(16, 77, 128)
    times = []
    for _ in range(steps + 3):
        start = time.perf_counter()
        unet(latents, torch.randint(1000, (16,)), prompts).sample.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    print(f"{statistics.median(times[3:])} {max(times[3:])}")


def measure(steps: int, environment: dict[str, str], beside: bool) -> tuple[float, float]:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if beside else None
    command = [sys.executable, __file__, "--steps", str(steps), "--train"]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    found = subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True, check=True)
    if busy:
        busy.kill()
        busy.wait()
    median, worst = map(float, found.stdout.split())
    return median, worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        train(args.steps)
        return
    print("| threads | alone: median (worst) | beside a busy process: median (worst) |\n| --- | --- | --- |")
    for name, environment in CASES.items():
        (alone, alone_worst), (beside, worst) = (measure(args.steps, environment, b) for b in (False, True))
        print(f"| {name} | {alone:.3f} s ({alone_worst:.2f}) | {beside:.3f} s ({worst:.2f}) |", flush=True)


if __name__ == "__main__":
    main()
