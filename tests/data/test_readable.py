"""Files that a training would stumble over are named before it starts."""

import numpy as np
import pytest
from PIL import Image

from dermgen.config import InputError
from dermgen.data.loading import check_readable, folder_examples


def test_a_cut_off_jpeg_is_named_before_training_and_a_whole_folder_passes(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "b.jpg", "c.png", "d.png"):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / name)
    check_readable(folder_examples(tmp_path, "", "data"))
    for name in ("b.jpg", "d.png"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) * 2 // 3])
    (tmp_path / "e.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with pytest.raises(InputError, match=r"3 of 5 images cannot be read: .*b.jpg .truncated.*d.png.*e.jpg .broken"):
        check_readable(folder_examples(tmp_path, "", "data"))
