"""The versions of the installed packages, and whether they fit together."""

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


def versions() -> dict[str, Any]:
    """The versions of Python and of the packages that decide a result, and the command line."""
    return {
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "argv": sys.argv,
    }
