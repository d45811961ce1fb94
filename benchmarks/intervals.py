"""Coverage of the 95 % intervals of `dermgen evaluate` on samples of normal distributions.

    python benchmarks/intervals.py [--repeats 200]

Each line draws that many pairs of real and synthetic sets and counts the intervals that contain the score's mean over
all of them: 0.95 is right, more is conservative. In brackets the intervals' mean width relative to the right width;
"certain" if all samples gave one value. "Pairs" are shifted sets with two similar real images per lesion.
"""

import argparse
import os

import numpy as np
import torch

from dermgen.evaluate import scores

SIZES = ((200, 200), (200, 1000), (300, 3000))
NAMES = "kid fid precision recall density coverage vendi mean_cosine inception_score".split()


def samples(rng: np.random.Generator, kind: str, real: int, synthetic: int, width: int):
    """Real features, the lesion of each, and synthetic features."""
    lesions = np.arange(real)
    a = rng.normal(size=(real, width))
    if kind == "pairs":
        lesions = lesions // 2
        a = rng.normal(size=(real // 2, width))[lesions] + 0.3 * rng.normal(size=(real, width))
    scale, shift = (1.0, 0.0) if kind == "equal" else (0.85, 0.2)
    b = rng.normal(size=(synthetic, width)) * scale + shift
    return a.astype(np.float32), lesions, b.astype(np.float32)


def line(rng: np.random.Generator, kind: str, real: int, synthetic: int, width: int, repeats: int) -> str:
    """One line of the table."""
    found: dict[str, list] = {name: [] for name in NAMES}
    for _ in range(repeats):
        a, lesions, b = samples(rng, kind, real, synthetic, width)
        of = scores.compare(a, b)[0]
        of |= {"vendi": scores.vendi(b + 3), "mean_cosine": scores.mean_cosine(b + 3)}
        of["inception_score"] = scores.inception_score(b[:, :8])
        for name, score in of.items():
            found[name].append((score.value, *score.interval(lesions)))
    cells = []
    for name in NAMES:
        values, low, high = np.array(found[name]).T
        covered = ((low <= values.mean()) & (values.mean() <= high)).mean()
        spread = 2 * 1.96 * values.std()
        width_of_right = f"{(high - low).mean() / spread:.2f}" if spread > 1e-9 else "certain"
        cells.append(f"{covered:.2f} ({width_of_right})")
    return f"| {real} / {synthetic:,} | {width} | {kind} | " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200)
    args = parser.parse_args()
    os.nice(10)
    torch.set_num_threads(1)
    print("| real / synthetic | dimensions | distributions | " + " | ".join(NAMES) + " |")
    print("|" + " --- |" * (3 + len(NAMES)))
    rng = np.random.default_rng(0)
    for real, synthetic in SIZES:
        for width in (16, 64):
            for kind in ("equal", "shifted", "pairs"):
                print(line(rng, kind, real, synthetic, width, args.repeats), flush=True)


if __name__ == "__main__":
    main()
