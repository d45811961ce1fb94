"""`dermgen init` writes a recipe that fits the data, the goal and the machine; its questions are walked at a terminal."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from dermgen import recipes
from dermgen.config import InputError
from dermgen.init import choose, init
from dermgen.settings.init import InitConfig

ROOT = Path(__file__).parent.parent
CLI = [sys.executable, "-m", "dermgen.cli", "init"]
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}


def answers(manifest_dir, folder, **changes):
    given = {"goal": "mel", "gpu_memory": 8.0, "internet": "yes", "time": "full", "recipe": str(folder / "mine.yaml")}
    return InitConfig(data_dir=str(manifest_dir), **(given | changes))


@pytest.mark.parametrize(
    ("goal", "gpu_memory", "internet", "methods"),
    [
        ("mel", 8, True, {"dreambooth_lora"}),
        ("mel", 80, True, {"dreambooth_lora"}),
        ("mel", 8, False, {"ddpm"}),
        ("mel", 0, True, {"ddpm"}),
        ("all", 8, True, {"ddpm"}),
        ("all", 0, False, {"ddpm"}),
        ("classifier", 8, True, {"classifier"}),
        ("classifier", 0, True, {"classifier"}),
    ],
)
def test_the_recipe_serves_the_goal_and_fits_the_machine(goal, gpu_memory, internet, methods):
    recipe = choose(goal, gpu_memory, internet)
    assert recipe.method in methods
    assert (recipe.gpu_memory is None) == (gpu_memory == 0 or (goal, internet) == ("classifier", False))
    assert recipe.gpu_memory is None or recipe.gpu_memory <= gpu_memory
    pretrained = vars(recipe.settings).get("pretrained_model_name_or_path")
    assert not pretrained or internet or vars(recipe.settings).get("from_scratch")
    if recipe.method == "ddpm":
        assert recipe.settings.class_conditional


def test_of_the_recipes_that_fit_a_gpu_the_one_that_needs_most_of_it_is_chosen():
    needs = {r.gpu_memory for r in map(recipes.read, recipes.shipped_recipes()) if r.method == "dreambooth_lora"} - {
        None
    }
    assert needs >= {8}
    for memory in range(min(needs), max(needs) + 1):
        assert choose("mel", memory, True).gpu_memory == max(n for n in needs if n <= memory)


def test_the_recipe_names_the_users_data_class_and_output(manifest_dir, tmp_path):
    recipe = recipes.read(str(init(answers(manifest_dir, tmp_path))))
    shipped = choose("mel", 8, True)
    settings = recipe.settings
    assert recipe.method == "dreambooth_lora"
    assert (settings.data_dir, settings.output_dir) == (str(manifest_dir), "runs/mine")
    assert (settings.instance_class, settings.instance_prompt) == ("mel", "a dermoscopic photo of melanoma")
    assert settings.validation_prompt == [settings.instance_prompt]
    assert settings.max_train_steps == shipped.settings.max_train_steps
    assert recipe.gpu_memory == shipped.gpu_memory


def test_a_quick_look_trains_a_tenth_of_the_steps(manifest_dir, tmp_path):
    settings = recipes.read(str(init(answers(manifest_dir, tmp_path, time="quick", goal="all", gpu_memory=0)))).settings
    whole = recipes.read("ddpm_tiny").settings
    assert (settings.max_train_steps, settings.validation_steps) == (whole.max_train_steps // 10, 30)
    assert settings.learning_rate == whole.learning_rate


def test_images_smaller_than_the_recipes_are_noted(manifest_dir, tmp_path, capsys):
    init(answers(manifest_dir, tmp_path))
    assert "was prepared at 32 px, and the recipe trains at 512 px" in capsys.readouterr().out
    init(answers(manifest_dir, tmp_path, gpu_memory=0, recipe=str(tmp_path / "small.yaml")))
    assert "note:" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"goal": "wart"}, "goal must be one of .*mel.*, all, classifier, got 'wart'"),
        ({"data_dir": "nowhere"}, "'nowhere' has no metadata.csv: make a manifest folder"),
        ({"recipe": __file__}, "is there already: choose another file"),
        ({"time": None, "internet": None}, "not a terminal, so nothing can be asked: give --internet, --time"),
    ],
)
def test_a_wrong_or_missing_answer_is_refused_and_nothing_is_written(changes, message, manifest_dir, tmp_path):
    given = {"data_dir": str(manifest_dir), "recipe": str(tmp_path / "mine.yaml"), "goal": "mel"}
    given |= {"gpu_memory": 0, "internet": "no", "time": "full"}
    with pytest.raises(InputError, match=message):
        init(InitConfig(**(given | changes)))
    assert not (tmp_path / "mine.yaml").exists()


def hears_ctrl_c():
    """Also where the tests themselves were started in the background, which is deaf to it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def asked(folder, *flags):
    """The command at a terminal."""
    return pexpect.spawn(
        CLI[0],
        [*CLI[1:], *map(str, flags)],
        cwd=str(folder),
        env=ENV,
        encoding="utf-8",
        timeout=120,
        preexec_fn=hears_ctrl_c,
    )


@pytest.mark.slow
def test_five_questions_at_a_terminal_write_a_recipe_and_the_doctor_checks_it(manifest_dir, tmp_path):
    child = asked(tmp_path)
    child.expect("1/5 .*: ")
    child.sendline("nowhere")
    child.expect("'nowhere' has no metadata.csv.*1/5 .*: ")
    child.sendline(str(manifest_dir))
    child.expect("2/5 .*mel, nv, vasc: more images of that class; all: .*: ")
    child.sendline("wart")
    child.expect("goal must be one of .*2/5 .*: ")
    child.sendline("all")
    child.expect(r"3/5 .*\[0\]: ")
    child.sendline("")
    child.expect(r"4/5 .*\[yes\]: ")
    child.sendline("maybe")
    child.expect(r"invalid choice: 'maybe'.*4/5 .*\[yes\]: ")
    child.sendline("no")
    child.expect(r"5/5 .*\[full\]: ")
    child.sendline("quick")
    child.expect("recipe.yaml is written, from ddpm_tiny")
    child.expect("ok +step")
    child.expect("All checks passed")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    settings = recipes.read(str(tmp_path / "recipe.yaml")).settings
    assert (settings.data_dir, settings.method, settings.max_train_steps) == (str(manifest_dir), "ddpm", 60)


def test_a_question_left_by_ctrl_c_writes_nothing(tmp_path):
    child = asked(tmp_path)
    child.expect("1/5 .*: ")
    child.sendintr()
    while child.expect(["error: stopped: nothing is written", pexpect.TIMEOUT], timeout=2):
        child.sendintr()  # one that comes before the question is being read waits for the next key
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 2
    assert not list(tmp_path.glob("*.yaml"))


@pytest.mark.slow
def test_flags_for_all_answers_ask_nothing_and_the_doctor_decides_the_exit_status(manifest_dir, tmp_path):
    flags = ["mine.yaml", "--data_dir", manifest_dir, "--goal", "nv", "--internet", "yes", "--time", "full"]
    command = [*CLI, *map(str, flags), "--gpu_memory", "8"]
    done = subprocess.run(command, cwd=tmp_path, env=ENV, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert "mine.yaml is written, from " in done.stdout
    assert "/5" not in done.stdout
    assert done.returncode == 1, done.stderr
    assert "FIX   model" in done.stdout  # which is not on this machine
