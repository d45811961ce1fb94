"""The demo runs commands that are valid, says what each does and where to look, and ends at a mistake."""

import shlex
import subprocess
import sys

import pytest
from PIL import Image

from dermgen import cli, demo, recipes, shipped
from dermgen.config import InputError
from dermgen.demo import STAGES, Stage
from dermgen.settings.demo import DemoConfig

FLAGS = {
    stage.command: shlex.split(stage.command.format(out="demo", recipes=shipped.folder(recipes.CONFIGS)))
    for stage in STAGES
}


@pytest.mark.parametrize(("name", "argv"), [(words[0], words[1:]) for words in FLAGS.values()])
def test_every_command_of_the_demo_is_one_whose_flags_are_right(name, argv, monkeypatch, tmp_path):
    (tmp_path / "demo" / "phantoms").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    if name == "train":
        settings = recipes.read(argv[0], flags=argv[1:]).settings
        assert settings.data_dir == "demo/manifest"
        return
    parsed = []

    class Parsed(Exception):
        pass

    def stop(config_cls, flags, *rest):
        parsed.append(real(config_cls, flags, *rest))
        raise Parsed

    real = cli.parse
    monkeypatch.setattr(cli, "parse", stop)
    with pytest.raises(Parsed):
        cli.COMMANDS[name](argv)
    assert any(str(value).startswith("demo/") for value in vars(parsed[0]).values())


TWO_STAGES = """
import sys
from dermgen import cli, demo
from dermgen.demo import Stage
from dermgen.settings.demo import DemoConfig

def audit(argv):
    print("much to read", *argv)
    raise SystemExit(3)

demo.STAGES = (
    Stage("Draw lesions", "phantom --output_dir {out}/p --num_lesions 7 --height 48", "{out}/p"),
    Stage("Look for copies", "audit --real {out}/p", "{out}/audit"),
)
demo._picture = lambda out: None
demo.demo(DemoConfig(output_dir="d"), {**cli.COMMANDS, "audit": audit})
"""


def test_what_a_stage_prints_is_in_the_log_and_a_line_says_what_it_does_and_where_to_look(tmp_path):
    done = subprocess.run([sys.executable, "-c", TWO_STAGES], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert " 1. Draw lesions\n    dermgen phantom --output_dir d/p --num_lesions 7" in done.stdout
    assert "s, too few held-out images to tell, see d/audit" in done.stdout
    assert "lesion/s" not in done.stderr
    assert "much to read" not in done.stdout
    log = (tmp_path / "d" / "log.txt").read_text()
    assert "much to read --real d/p" in log
    assert "lesion/s" in log
    assert (tmp_path / "d" / "p" / "HAM10000_metadata.csv").exists()


def test_a_mistake_in_a_stage_ends_the_demo_and_is_not_hidden_in_the_log(tmp_path, monkeypatch, capfd):
    def fails(argv):
        raise InputError("no space")

    monkeypatch.setattr(demo, "STAGES", (Stage("a", "first", "x"), Stage("b", "second", "y")))
    with pytest.raises(InputError, match="no space"):
        demo.demo(DemoConfig(output_dir=str(tmp_path)), {"first": fails, "second": pytest.fail})
    print("seen")
    assert "seen" in capfd.readouterr().out


def test_the_pictures_rows_are_real_and_generated_lesions(tmp_path, manifest_dir, synthetic_dir):
    (tmp_path / "manifest").symlink_to(manifest_dir)
    (tmp_path / "synthetic").symlink_to(synthetic_dir)
    demo._picture(tmp_path)
    with Image.open(tmp_path / "demo.png") as picture:
        assert picture.width == 8 * 100 + 4
