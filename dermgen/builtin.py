"""The models inside the package, known by a name wherever a folder or Hub id can be given."""

from pathlib import Path

from dermgen.config import InputError

MODELS = Path(__file__).parent / "models"
NAMES = ("phantom",)  # a small Stable Diffusion of drawn lesions


def located(name_or_path: str) -> str:
    """The folder of the built-in model of that name; any other folder or Hub id as it is.

    A folder of one's own with such a name is given as ./phantom.

    Raises:
        InputError: if the installation lacks the model.
    """
    if name_or_path not in NAMES:
        return name_or_path
    folder = MODELS / name_or_path
    if not (folder / "model_index.json").is_file():
        raise InputError(f"this installation lacks the model {name_or_path!r} ({folder}): install dermgen again")
    return str(folder)
