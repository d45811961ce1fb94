"""Recipes and flags: one parser, clear errors."""

import dataclasses
import errno
import importlib
import pkgutil
import subprocess
import sys
from dataclasses import dataclass

import pytest
import yaml

from dermgen import settings
from dermgen.config import InputError, option, parse, read_yaml, save, whole_file
from dermgen.job import claim_folder, user_errors
from dermgen.settings.ddpm import DdpmConfig
from dermgen.settings.doctor import DoctorConfig
from dermgen.settings.dreambooth import DreamboothConfig, DreamboothLoraConfig
from dermgen.settings.evaluate import EvaluateConfig
from dermgen.settings.generate import GenerateConfig
from dermgen.settings.methods import METHODS
from dermgen.settings.phantom import PhantomConfig
from dermgen.settings.prepare import PrepareConfig
from dermgen.settings.publish import PublishDatasetConfig
from dermgen.settings.tiny import TinyConfig
from dermgen.settings.training import TrainConfig

MODEL = ["--pretrained_model_name_or_path", "x", "--data_dir", "y"]


@dataclass(frozen=True, kw_only=True)
class Settings(TrainConfig):
    """Settings of a test."""

    channels: list[int] | None = option(None, "numbers", positional=True)
    flag: bool = option(False, "a switch")
    word: str | None = option(None, "text")


def recipe(tmp_path, text):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return ["--config", str(path)]


def test_a_word_that_only_begins_like_true_or_false_is_a_word(tmp_path):
    names = [
        field.name
        for module in pkgutil.iter_modules(settings.__path__, "dermgen.settings.")
        for kind in vars(importlib.import_module(module.name)).values()
        if dataclasses.is_dataclass(kind)
        for field in dataclasses.fields(kind)
    ]
    assert "false_alarms" in names
    for word in dict.fromkeys([*names, "truer", "Falsetto", "TRUE story", "truefalse"]):
        (tmp_path / "a.yaml").write_text(yaml.safe_dump({word: word}))
        assert read_yaml(tmp_path / "a.yaml") == {word: word}
    for text, value in (("true", True), ("False", False), ("TRUE", True), ("no", "no")):
        (tmp_path / "a.yaml").write_text(f"a: {text}")
        assert read_yaml(tmp_path / "a.yaml") == {"a": value}


def test_flags_override_the_recipe_wherever_they_stand(tmp_path):
    config = recipe(tmp_path, "learning_rate: 1e-3\nema_decay: 0.5\nchannels: [8, 16]\nflag: true\nword: --odd value\n")
    for argv in ([*config, "--ema_decay", "0.9"], ["--ema_decay", "0.9", *config]):
        parsed = parse(Settings, argv)
        assert (parsed.learning_rate, parsed.ema_decay, parsed.channels) == (1e-3, 0.9, [8, 16])
        assert (parsed.flag, parsed.word) == (True, "--odd value")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ema_decai: 0.5", "unknown key 'ema_decai'; did you mean 'ema_decay'?"),
        ("lr_scheduler: cosinus", "invalid choice"),
        ("max_train_steps: 1.5", "invalid int value: '1.5'"),
        ("ema_decay: 1.5", r"ema_decay must be in \[0, 1\), got 1.5"),
        ("train_batch_size: 0", "train_batch_size must be at least 1, got 0"),
        ("- a\n- b", "must hold `option: value` lines"),
        ("a: [", "cannot read the recipe"),
        ("seed: 1\nword: x\nseed: 2", "the key 'seed' occurs twice"),
    ],
)
def test_a_wrong_recipe_is_refused_with_what_to_write_instead(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        parse(Settings, recipe(tmp_path, text))


def test_a_wrong_flag_or_a_missing_recipe_is_refused(tmp_path):
    with pytest.raises(InputError, match="unknown option '--learning_rat'; did you mean 'learning_rate'"):
        parse(Settings, ["--learning_rat", "1"])
    with pytest.raises(InputError, match="cannot read the recipe"):
        parse(Settings, ["--config", str(tmp_path / "none.yaml")])
    with pytest.raises(InputError, match="needs the path"):
        parse(Settings, ["--config"])
    with pytest.raises(InputError, match="unexpected word 'photo': put a value of several words in quotes"):
        parse(Settings, ["--word", "a", "photo"])


def test_a_recipe_is_read_in_one_token_too_and_never_two_of_them(tmp_path):
    (tmp_path / "r.yaml").write_text("seed: 7\n")
    assert parse(Settings, [f"--config={tmp_path / 'r.yaml'}"]).seed == 7
    for second in (["--config", "b.yaml"], ["--config=b.yaml"]):
        with pytest.raises(InputError, match="one --config is read, got 2"):
            parse(Settings, ["--config", "a.yaml", *second])


def test_a_recipe_may_write_no_none_and_whole_numbers_as_people_do(tmp_path):
    text = "mixed_precision: no\nword: None\nmax_train_steps: 2.0\nscale_lr: yes\nflag: no\nreport_to: none\n"
    config = parse(Settings, recipe(tmp_path, text))
    assert (config.mixed_precision, config.word, config.max_train_steps) == ("no", None, 2)
    assert (config.scale_lr, config.flag, config.report_to) == (True, False, "none")


def test_doctor_reads_one_recipe_and_never_two_of_them():
    assert parse(DoctorConfig, ["--config", "a.yaml"], recipes=False).recipe == "a.yaml"
    for second in (["--config", "b.yaml"], ["--recipe=b.yaml"]):
        with pytest.raises(InputError, match="is read, got a.yaml and b.yaml"):
            parse(DoctorConfig, ["--config=a.yaml", *second], recipes=False)


@pytest.mark.parametrize("kind", [method.settings for method in METHODS.values()])
def test_the_settings_that_a_run_saves_are_a_recipe_of_the_same(kind, tmp_path):
    needed = {"data_dir": "d", "pretrained_model_name_or_path": "m", "class_a": "nv", "class_b": "mel"}
    names = {field.name for field in dataclasses.fields(kind)}
    config = kind(**{name: value for name, value in needed.items() if name in names})
    save(config, tmp_path / "c.yaml")
    assert parse(kind, ["--config", str(tmp_path / "c.yaml")]) == config


def test_a_recipe_may_merge_another_mapping(tmp_path):
    (tmp_path / "grid.yaml").write_text("a: &a {dx: [mel]}\nb:\n  <<: *a\n  sex: [no]\n")
    assert read_yaml(tmp_path / "grid.yaml")["b"] == {"dx": ["mel"], "sex": ["no"]}


def test_damaged_settings_of_a_folder_are_an_error(tmp_path):
    claim_folder(tmp_path / "a", Settings())
    (tmp_path / "a" / "config.yaml").write_text("")
    with pytest.raises(InputError, match="config.yaml is damaged: restore it"):
        claim_folder(tmp_path / "a", Settings())


def test_a_folder_that_was_there_before_a_failed_start_stays(tmp_path):
    (tmp_path / "mine").mkdir()
    for name in ("mine", "new"):
        with pytest.raises(SystemExit), user_errors():
            claim_folder(tmp_path / name, Settings())
            raise InputError("a mistake")
    assert [p.name for p in tmp_path.rglob("*")] == ["mine"]


def test_a_switch_takes_a_flag_a_value_or_its_negation():
    assert not parse(DreamboothLoraConfig, [*MODEL, "--no-cache-latents"]).cache_latents
    assert parse(DreamboothLoraConfig, [*MODEL, "--random-flip"]).random_flip
    assert not parse(DreamboothLoraConfig, [*MODEL, "--no_cache_latents"]).cache_latents
    assert not parse(DreamboothLoraConfig, [*MODEL, "--cache_latents", "False"]).cache_latents
    with pytest.raises(InputError, match="argument --random_flip/--random-flip: true or false expected, got 'maybe'"):
        parse(DreamboothLoraConfig, [*MODEL, "--random_flip", "maybe"])


def test_words_before_the_first_flag_go_to_the_option_that_takes_them():
    assert parse(Settings, ["3", "4", "--seed", "1"]).channels == [3, 4]


@pytest.mark.parametrize("kind", [DreamboothConfig, DreamboothLoraConfig])
def test_a_saved_config_parses_again_to_the_same(tmp_path, kind):
    config = kind(
        pretrained_model_name_or_path="x",
        data_dir="y",
        validation_prompt=["a b", "c"],
        max_train_steps=7,
        random_flip=True,
        cache_latents=False,
    )
    save(config, tmp_path / "c.yaml")
    assert parse(kind, ["--config", str(tmp_path / "c.yaml")]) == config


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().seed = 3


def test_a_folder_belongs_to_the_settings_it_was_made_with(tmp_path):
    claim_folder(tmp_path / "a", Settings(logging_steps=1))
    claim_folder(tmp_path / "a", Settings(logging_steps=2))
    with pytest.raises(InputError, match="word was None and is 'x'"):
        claim_folder(tmp_path / "a", Settings(word="x"))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="files in it that are not dermgen's"):
        claim_folder(tmp_path / "b", Settings())


def test_a_folder_can_be_resumed_after_its_command_got_a_new_option(tmp_path):
    claim_folder(tmp_path / "a", Settings())
    saved = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
    del saved["word"]
    (tmp_path / "a" / "config.yaml").write_text(yaml.safe_dump(saved))
    claim_folder(tmp_path / "a", Settings())
    (tmp_path / "a" / "config.yaml").write_text(yaml.safe_dump(saved))
    with pytest.raises(InputError, match="word was"):
        claim_folder(tmp_path / "a", Settings(word="x"))


def test_a_run_whose_saved_settings_name_options_of_other_programs_resumes_and_is_a_recipe(tmp_path):
    config = parse(DreamboothConfig, MODEL)
    claim_folder(tmp_path / "a", config)
    path = tmp_path / "a" / "config.yaml"
    path.write_text(path.read_text() + "local_rank: -1\nset_grads_to_none: true\nhub_token:\nvalidation_images: null\n")
    claim_folder(tmp_path / "a", config)
    assert parse(DreamboothConfig, ["--config", str(path)]) == config
    with pytest.raises(InputError, match="data_dir was 'y' and is 'z'"):
        claim_folder(tmp_path / "a", dataclasses.replace(config, data_dir="z"))


def test_an_option_of_another_program_is_accepted_without_effect_or_refused_with_the_reason(tmp_path):
    harmless = ["--local_rank", "0", "--set_grads_to_none"]
    assert parse(DreamboothConfig, [*MODEL, *harmless]) == parse(DreamboothConfig, MODEL)
    with pytest.raises(InputError, match="--validation_images is for DeepFloyd IF"):
        parse(DreamboothConfig, [*MODEL, "--validation_images", "a.png", "b.png"])
    for given in (["--hub-token=hf_secret"], recipe(tmp_path, "hub_token: hf_secret")):
        with pytest.raises(InputError, match="--hub_token can be read by others") as error:
            parse(DreamboothConfig, [*MODEL, *given])
        assert "hf_secret" not in str(error.value)


def test_a_job_that_starts_over_keeps_what_is_fixed_and_nothing_else(tmp_path):
    first = PrepareConfig(source="a/b", output_dir=str(tmp_path / "a"))
    claim_folder(tmp_path / "a", first)
    claim_folder(tmp_path / "a", dataclasses.replace(first, resolution=64), anew=True)
    for name in ("source", "image_column", "hub_split"):
        with pytest.raises(InputError, match=f"{name} was"):
            claim_folder(tmp_path / "a", dataclasses.replace(first, **{name: "other"}), anew=True)


def test_a_users_mistake_prints_one_line_and_exits_with_two(tmp_path):
    command = [
        sys.executable,
        "-m",
        "dermgen.cli",
        "prepare",
        "ham10000",
        "--data_dir",
        "/nowhere",
        "--output_dir",
        "x",
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == "error: no such folder: --data_dir /nowhere\n"


def test_a_secret_in_an_unknown_option_is_not_repeated():
    with pytest.raises(InputError, match="unknown option '--token'") as error:
        parse(TrainConfig, ["--token=hf_secret"])
    assert "hf_secret" not in str(error.value)


@pytest.mark.parametrize("seed", [-1, 2**32, 2**64 - 1])
def test_a_seed_that_pytorch_would_shorten_or_refuse_is_an_error_in_every_command(seed, tmp_path):
    """Its generator on the CPU takes 32 bits: 5 and 5 + 2**32 would be the same seed under two names."""
    kinds = [
        (GenerateConfig, {"model": "m", "output_dir": "o"}),
        (DdpmConfig, {"data_dir": "d"}),
        (TinyConfig, {"data_dir": "d", "output_dir": "o"}),
        (EvaluateConfig, {"real": "r", "synthetic": "s", "output_dir": "o"}),
        (PhantomConfig, {"output_dir": "o"}),
        (PrepareConfig, {"source": "ham10000", "data_dir": str(tmp_path), "output_dir": "o"}),
        (PublishDatasetConfig, {"data_dir": "d", "repo_id": "a/b"}),
    ]
    for kind, given in kinds:
        with pytest.raises(InputError, match=f"seed must be from 0 to 4294967295, got {seed}"):
            kind(**given, seed=seed)
        assert kind(**given, seed=2**32 - 1)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "run/model.safetensors"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),  # as safetensors'
    ],
)
def test_a_full_disk_is_one_line_whichever_library_reports_it(error, capsys):
    with pytest.raises(SystemExit) as end, user_errors():
        try:
            raise error
        except Exception as cause:
            raise ValueError("could not save") from cause
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: cannot write")
    assert message.count("\n") == 1
    assert "no space is left" in message
    assert "run the same command again" in message


def test_another_error_of_the_operating_system_keeps_its_traceback():
    with pytest.raises(FileNotFoundError), user_errors():
        raise FileNotFoundError(errno.ENOENT, "No such file", "x")


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(OSError, match="disk is full"), whole_file(tmp_path / "a.txt") as partial:
        partial.write_text("ne")
        raise OSError("disk is full")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "old")]
    with whole_file(tmp_path / "a.txt") as partial:
        partial.write_text("new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "new")]


@pytest.mark.parametrize("word", ["nan", "inf", "-inf", "1e999", "much"])
def test_a_number_is_finite(word, tmp_path):
    for given in ([f"--learning_rate={word}"], recipe(tmp_path, f"learning_rate: {word}\n")):
        with pytest.raises(InputError, match=f"number expected, got '{word}'"):
            parse(Settings, given)


def test_a_job_that_fails_before_it_made_anything_leaves_its_folder_to_the_corrected_command(tmp_path):
    def start(folder, seed, makes=None, kind=InputError):
        with pytest.raises((SystemExit, RuntimeError)), user_errors():
            claim_folder(folder, Settings(seed=seed))
            (folder / "provenance.json").write_text("{}")
            (folder / "logs").mkdir()
            (folder / "logs" / "events").write_text("x")
            if makes:
                (folder / makes).write_text("x")
            raise kind("no such layer")

    start(tmp_path / "a" / "b", 0)
    assert not (tmp_path / "a" / "b").exists()
    start(tmp_path / "crash", 0, kind=RuntimeError)
    assert not (tmp_path / "crash").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / ".hidden").write_text("a user's")
    start(tmp_path / "mine", 0)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == [".hidden"]
    # What it made is kept, and so is the claim on it, and one that an earlier start has.
    start(tmp_path / "made", 0, makes="metrics.jsonl")
    with pytest.raises(InputError, match="seed was 0 and is 1"):
        claim_folder(tmp_path / "made", Settings(seed=1))
    claim_folder(tmp_path / "old", Settings(seed=0))
    with pytest.raises(SystemExit), user_errors():
        claim_folder(tmp_path / "old", Settings(seed=1))
    assert (tmp_path / "old" / "config.yaml").exists()
