"""`dermgen inspect`: what an image file says of where it comes from."""

import json
from pathlib import Path

from PIL import Image

from dermgen import watermark
from dermgen.config import InputError
from dermgen.data import preprocess
from dermgen.data.names import printable
from dermgen.settings.inspect import InspectConfig

TOLD = ("prompt", "seed", "guidance_scale", "num_inference_steps", "scheduler", "truncation")


def inspect(config: InspectConfig) -> list[dict]:
    """Print and return what each file says.

    Raises:
        InputError: if a file is missing or no image.
    """
    found = []
    for path in _images(config.files):
        found.append(read(path))
        print(as_text(found[-1]))
    return found


def read(path: Path) -> dict:
    """What one file says: `facts` (of its text chunks; None if it has none of ours), `watermark` (a score), `exif`.

    Raises:
        InputError: if it is no image that can be read.
    """
    try:
        pixels = preprocess.read_image(path)
    except preprocess.BadImage as error:
        raise InputError(f"{printable(path)}: {error}") from error
    with Image.open(path) as image:
        image.load()  # text after the pixels is read last
        text, exif, kind = dict(image.info), preprocess.has_exif(image), image.format
    try:
        facts = json.loads(text.get("dermgen", "null"))
    except json.JSONDecodeError:
        facts = None  # another program's, or damaged: then it says nothing
    facts = facts if isinstance(facts, dict) else None
    return {
        "path": printable(path),
        "kind": kind,
        "size": (pixels.shape[1], pixels.shape[0]),
        "facts": facts,
        "software": text.get("Software") if facts else None,
        "watermark": watermark.detect(pixels),
        "exif": exif,
    }


def as_text(found: dict) -> str:
    """What one file says, for a terminal."""
    facts, score = found["facts"], found["watermark"]
    lines = [f"{found['path']}  ({found['size'][0]} x {found['size'][1]} {found['kind']})"]
    if facts:
        weights = f", weights {facts['model_sha256'][:12]}" if facts.get("model_sha256") else ""
        lines.append(
            f"  text       synthetic, drawn by {facts.get('model', 'an unknown model')}{weights}; {found['software']}"
        )
        lines += [f"             {name} {facts[name]}" for name in TOLD if name in facts]
    else:
        lines.append("  text       says nothing of dermgen (it is lost when an image is saved anew)")
    told = f"score {score:.1f}, above {watermark.THRESHOLD:.0f} counts"
    if score > watermark.THRESHOLD:
        lines.append(f"  watermark  found: synthetic, drawn by dermgen ({told})")
    else:
        lines.append(f"  watermark  not found ({told}); that proves nothing, images are drawn without one too")
    lines.append("  EXIF       present: camera, date or place may be in it" if found["exif"] else "  EXIF       none")
    return "\n".join(lines)


def _images(names: list[str]) -> list[Path]:
    found = []
    for path in map(Path, names):
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in preprocess.FORMATS)
            if not inside:
                raise InputError(f"{path} has no images")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise InputError(f"no such file: {path}")
    return found
