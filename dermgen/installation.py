"""The versions of the installed packages, whether they fit together, and the GPUs that they can use."""

import ctypes
import platform
import sys
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

from dermgen.config import InputError

PACKAGES = "dermgen torch torchvision diffusers transformers accelerate peft safetensors".split()
TESTED = "requirements/tested.txt lists versions that were tested together"


def conflicts() -> list[str]:
    """A sentence for each installed package whose version dermgen, or another package, refuses."""
    found = []
    for requirement in map(Requirement, metadata.requires("dermgen") or []):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            found.append(f"{requirement.name} is not installed: pip install '{requirement}'")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            found.append(f"{requirement.name} {version} is installed: pip install '{requirement}'; {TESTED}")
    return [*found, *_text_encoder_adapters()]


def require_text_encoder_adapters() -> None:
    """Raise `InputError` if the installed transformers refuses the installed peft, which its metadata does not show."""
    for sentence in _text_encoder_adapters():
        raise InputError(sentence)


def _text_encoder_adapters() -> list[str]:
    from transformers.integrations.peft import MIN_PEFT_VERSION

    version = metadata.version("peft")
    if Version(version) >= Version(MIN_PEFT_VERSION):
        return []
    return [
        f"transformers {metadata.version('transformers')} needs peft {MIN_PEFT_VERSION} or newer for LoRA on the text "
        f"encoder, and peft {version} is installed: install another pair; {TESTED}"
    ]


def gpus() -> list[int]:
    """Memory in bytes of each GPU that torch can use, asked of the driver since importing torch takes seconds."""
    build = metadata.version("torch").partition("+")[2]
    if build.startswith("rocm"):
        import torch

        return [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
    if build == "cpu":
        return []
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return []
    number, device, size, sizes = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t(), []
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(number)):
        return []
    for i in range(number.value):
        driver.cuDeviceGet(ctypes.byref(device), i)
        driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
        sizes.append(size.value)
    return sizes


def versions() -> dict[str, Any]:
    """The versions of Python and of the packages that decide a result, and the command line."""
    return {
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "argv": sys.argv,
    }
