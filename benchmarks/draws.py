"""Cost of the random numbers of a training step, as a share of the step of a small UNet; exit status 1 from 3 %.

    python benchmarks/draws.py

4 images of 16 x 16 latents per step; Stable Diffusion 1.5 at 512 px computes over a hundred times more per step.
"""

import sys
import time
from collections.abc import Callable

import torch
from diffusers import UNet2DModel

from dermgen.training.draws import Draws, derive_seed


def fastest(function: Callable[[], object]) -> float:
    """Seconds, the best of 20."""
    times = []
    for _ in range(20):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    unet = UNet2DModel(
        16,
        4,
        4,
        block_out_channels=(64, 128),
        norm_num_groups=8,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    images, timesteps = torch.randn(4, 4, 16, 16), torch.tensor([1, 2, 3, 4])

    def step():
        unet(images, timesteps).sample.pow(2).mean().backward()

    def draw():
        draws = Draws([derive_seed(0, 0, k) for k in range(4)])
        return draws.normal(4, 16, 16), draws.integers(1000), draws.uniform()

    seconds = {"step": fastest(step), "draws": fastest(draw)}
    share = seconds["draws"] / seconds["step"]
    print("| | ms |\n| --- | --- |\n" + "\n".join(f"| {name} | {1000 * s:.2f} |" for name, s in seconds.items()))
    print(f"\n{share:.1%} of a step")
    sys.exit(share >= 0.03)


if __name__ == "__main__":
    main()
