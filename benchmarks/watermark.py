"""How often the watermark is detected after common changes of images, and how often in unmarked images.

    python benchmarks/watermark.py --data_dir data/raw/ham10000 [--num_images 1000] [--resolution 512]

`--data_dir` is any folder of photographs; each is cropped to its middle square, resized, and marked. False alarms are
counted over all images of the folder, at their original size.
"""

import argparse
import io
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from dermgen import watermark
from dermgen.data import preprocess


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def resized(image: np.ndarray, factor: float) -> np.ndarray:
    side = round(image.shape[0] * factor)
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


CHANGES = {
    "none": lambda i: i,
    "JPEG 90": lambda i: jpeg(i, 90),
    "JPEG 75": lambda i: jpeg(i, 75),
    "JPEG 50": lambda i: jpeg(i, 50),
    "half the size": lambda i: resized(i, 0.5),
    "three quarters": lambda i: resized(i, 0.75),
    "half the size, JPEG 90": lambda i: jpeg(resized(i, 0.5), 90),
    "mirrored": lambda i: np.ascontiguousarray(i[:, ::-1]),
    "10 % cut off": lambda i: i[i.shape[0] // 20 : -i.shape[0] // 20, i.shape[1] // 20 : -i.shape[1] // 20],
}


def square(path: Path) -> np.ndarray:
    image = preprocess.read_image(path)
    top, left, side = preprocess.center_box(*image.shape[:2])
    return image[top : top + side, left : left + side]


def scores(path: Path, resolution: int) -> dict[str, float]:
    image = preprocess.resize(square(path), resolution)
    marked = watermark.embed(image)
    error = np.sqrt(((marked.astype(float) - image) ** 2).mean())
    return {"PSNR": 20 * np.log10(255 / error)} | {name: watermark.detect(f(marked)) for name, f in CHANGES.items()}


def false_score(path: Path) -> float:
    return watermark.detect(square(path))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--num_images", type=int, default=1000)
    parser.add_argument("--resolution", type=int, nargs="+", default=[64, 256, 512])
    args = parser.parse_args()
    paths = sorted(p for p in Path(args.data_dir).rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    paths = [p for p in paths if "segmentation" not in p.as_posix().lower()]
    chosen = [paths[i] for i in np.random.default_rng(0).permutation(len(paths))[: args.num_images]]
    print(f"{len(chosen)} photographs, found above a score of {watermark.THRESHOLD:g}\n")
    print("| px | PSNR, median | " + " | ".join(CHANGES) + " |\n|" + " --- |" * (len(CHANGES) + 2))
    with ProcessPoolExecutor() as pool:
        for resolution in args.resolution:
            found = list(pool.map(partial(scores, resolution=resolution), chosen, chunksize=16))
            rates = [np.mean([f[name] > watermark.THRESHOLD for f in found]) for name in CHANGES]
            psnr = np.median([f["PSNR"] for f in found])
            print(f"| {resolution} | {psnr:.1f} dB | " + " | ".join(f"{r:.1%}" for r in rates) + " |")
        unmarked = np.array(list(pool.map(false_score, paths, chunksize=64)))
    false = int((unmarked > watermark.THRESHOLD).sum())
    print(f"\nFound in {false} of {len(paths)} unmarked photographs; their highest score is {unmarked.max():.2f}.")


if __name__ == "__main__":
    main()
