"""What a model was trained on is recorded with a run, passed on to its weights and images, and never guessed."""

import json
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
from accelerate import Accelerator

from dermgen.config import InputError
from dermgen.data import trained_on
from dermgen.data.cache import hash_file
from dermgen.data.generated import Generated
from dermgen.data.set_facts import SetFacts
from dermgen.data.trained_on import TrainedOn

CLINIC = SetFacts(images=2, lesions=None, licenses=["CC0"], sources=["clinic"], images_per_class={"mel": 2})
LEAKY = replace(CLINIC, leaky=True)


def begin(folder, images, base=None, data=CLINIC, **row):
    """A run that trains on files of these contents."""
    folder.mkdir(exist_ok=True)
    if not (folder / "provenance.json").exists():
        (folder / "provenance.json").write_text('{"run": "1"}')
    rows = []
    for name, content in images.items():
        path = folder / f"{name}.png"
        path.write_bytes(content)
        rows.append({"image_id": name, "dx": "mel", "synthetic": "false", "path": str(path), **row})
    return trained_on.write(folder, Accelerator(), rows, [data], base)


def test_a_run_knows_its_images_and_those_of_all_models_below_it(tmp_path):
    first = begin(tmp_path / "first", {"a": b"a"}, data=LEAKY)
    second = begin(tmp_path / "second", {"b": b"b"}, str(tmp_path / "first"))
    third = begin(tmp_path / "third", {"c": b"c"}, str(tmp_path / "second"))
    known = TrainedOn.read(tmp_path / "third")
    assert known.sha256 == {*first.values(), *second.values(), *third.values()}
    assert known.image_ids == {"a", "b", "c"}
    assert [entry.leaky for entry in known.data] == [False]
    assert [entry.leaky for entry in known.base_data] == [False, True]
    assert known.leaky
    assert json.loads((tmp_path / "third" / "provenance.json").read_text())["run"] == "1"


def test_an_image_and_a_data_set_below_are_recorded_once(tmp_path):
    begin(tmp_path / "autoencoder", {"a": b"a", "b": b"b"}, dx="")
    begin(tmp_path / "base", {"a": b"a", "c": b"c"}, str(tmp_path / "autoencoder"))
    begin(tmp_path / "run", {"d": b"d"}, str(tmp_path / "base"))
    table = (tmp_path / "run" / "base_training_set.csv").read_text().splitlines()[1:]
    assert [line.split(",")[:2] for line in table] == [["a", "mel"], ["c", "mel"], ["b", ""]]
    assert TrainedOn.read(tmp_path / "run").base_data == (CLINIC,)


def test_a_base_model_whose_record_was_lost_binds_a_resumed_run_all_the_same(tmp_path):
    begin(tmp_path / "base", {"a": b"a"})
    begin(tmp_path / "run", {"b": b"b"}, str(tmp_path / "base"))
    for name in ("training_set.csv", "provenance.json"):
        (tmp_path / "base" / name).unlink()
    begin(tmp_path / "run", {"b": b"b"}, str(tmp_path / "base"))
    assert TrainedOn.read(tmp_path / "run").base_data == (CLINIC,)
    assert TrainedOn.read(tmp_path / "run").image_ids == {"a", "b"}


def test_synthetic_images_are_known_by_id_and_do_not_count_as_photographs(tmp_path):
    begin(tmp_path / "run", {"a": b"a"}, synthetic="true")
    known = TrainedOn.read(tmp_path / "run")
    assert (known.sha256, known.image_ids) == (frozenset(), {"a"})


def test_a_synthetic_image_with_the_id_of_a_real_one_does_not_stand_for_it(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "provenance.json").write_text("{}")
    rows = []
    for synthetic in ("false", "true"):
        path = tmp_path / f"{synthetic}.png"
        path.write_bytes(synthetic.encode())
        rows.append({"image_id": "a", "dx": "mel", "synthetic": synthetic, "path": str(path)})
    trained_on.write(run, Accelerator(), rows, [CLINIC])
    assert TrainedOn.read(run).sha256 == {hash_file(tmp_path / "false.png")}


@pytest.mark.parametrize("other", [{"a": b"changed"}, {"b": b"a"}, {"a": b"a", "b": b"b"}])
def test_a_run_is_not_resumed_with_other_images(tmp_path, other):
    begin(tmp_path / "run", {"a": b"a"})
    begin(tmp_path / "run", {"a": b"a"})
    with pytest.raises(InputError, match="was trained on other images"):
        begin(tmp_path / "run", other)


def test_a_repeated_image_is_recorded_once_with_its_number_of_repeats(tmp_path):
    begin(tmp_path / "run", {"a": b"a"})
    row = {"image_id": "a", "dx": "mel", "synthetic": "false", "path": str(tmp_path / "run" / "a.png")}
    with pytest.raises(InputError, match="was trained on other images"):
        trained_on.write(tmp_path / "run", Accelerator(), [row, row], [CLINIC])
    (tmp_path / "run" / "training_set.csv").unlink()
    trained_on.write(tmp_path / "run", Accelerator(), [row, row], [CLINIC])
    table = (tmp_path / "run" / "training_set.csv").read_text()
    assert table == f"image_id,dx,synthetic,times,sha256\na,mel,false,2,{hash_file(row['path'])}\n"


def test_a_missing_record_means_unknown_and_not_empty(tmp_path):
    assert TrainedOn.read("organisation/model-on-the-hub") == TrainedOn()
    assert TrainedOn().sha256 is TrainedOn().image_ids is None
    begin(tmp_path / "run", {"a": b"a"})
    (tmp_path / "run" / "training_set.csv").unlink()
    assert TrainedOn.read(tmp_path / "run").sha256 is None
    with pytest.raises(InputError, match="nobody can tell whether it was trained on held-out images"):
        TrainedOn.ids(tmp_path / "run")


def test_a_training_on_a_plain_folder_is_recorded_without_pandas(tmp_path):
    """It takes 90 MiB."""
    code = """
        import sys
        from pathlib import Path
        from accelerate import Accelerator
        import dermgen.methods.dreambooth
        from dermgen.data import trained_on
        from dermgen.data.set_facts import SetFacts
        from dermgen.training import run_record
        folder = Path(sys.argv[1])
        run_record.begin(folder, run="1")
        (folder / "a.png").touch()
        row = {"image_id": "a", "dx": "", "synthetic": "false", "path": str(folder / "a.png")}
        trained_on.write(folder, Accelerator(), [row], [SetFacts.of_plain_folder(1)], str(folder))
        assert run_record.RunRecord.read(folder).trained_on.data[0].images == 1
        print("pandas" in sys.modules)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_generated_images_pass_on_what_their_model_was_trained_on(tmp_path):
    hashes = begin(tmp_path / "run", {"a": b"a"}, data=LEAKY)
    (tmp_path / "run" / "config.yaml").write_text("data_dir: real\nseed: 3\n")
    (tmp_path / "images").mkdir()
    of_run = TrainedOn.read(tmp_path / "run")
    Generated("abc", of_run, "3.12", {"torch": "2"}, ["dermgen"]).write(tmp_path / "images")
    (tmp_path / "view").mkdir()
    (tmp_path / "view" / "config.yaml").write_text(f"synthetic: {tmp_path / 'images'}\n")
    (tmp_path / "images" / "config.yaml").write_text("seed: 5\n")
    generated = Generated.read(tmp_path / "view", ["abc"])
    assert generated.trained_on.sha256 == set(hashes.values())
    assert (generated.trained_on.leaky, generated.trained_on.manifests, generated.seed) == (True, ("real",), 5)
    assert Generated.read(tmp_path / "view", ["of other weights"]) == Generated()
