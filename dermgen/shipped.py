"""Where the files are that ship beside the code: at the top of a clone, under `share/dermgen` of a wheel."""

import sysconfig
from pathlib import Path

from dermgen.config import InputError

CLONE = Path(__file__).parents[1]


def folder(name: str) -> Path:
    """The folder `name` of a clone, as `train_scripts/configs`, or what a wheel installed of it.

    Raises:
        InputError: if it is in neither place.
    """
    shares = [sysconfig.get_path("data"), sysconfig.get_path("data", sysconfig.get_preferred_scheme("user"))]
    places = [CLONE / name, *(Path(share, "share", "dermgen", name) for share in shares)]
    for place in places:
        if place.is_dir():
            return place
    raise InputError(
        f"dermgen's own files are missing, {places[0]} as well as {places[1]}: install dermgen again, by "
        "pip install --force-reinstall --no-deps dermgen"
    )
