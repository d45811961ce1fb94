"""The rules of every option of every command: a value just outside is refused by name, the limit itself is taken."""

import dataclasses
import importlib
import pkgutil

import pytest

from dermgen import settings
from dermgen.config import InputError, parse, rules_of
from dermgen.job import claim_folder
from dermgen.settings.training import FromScratchConfig

# By what a value must be: the options, each in all classes that have it, or `Class.option` where classes differ.
LIMITS = {
    "at least 0": """
        latent_noise port learning_rate unet_learning_rate discriminator_learning_rate lr_warmup_steps dataloader_num_workers
        VaeConfig.kl_weight kl_warmup_steps synthetic_ratio freeze_stages mixup_alpha rotation
        reduce_on_plateau_patience cycle_weight identity_weight pool_size r1_gamma path_length_weight
        gradient_penalty_weight mask_loss_weight truncation crop_margin gpu_memory machine_rank""",
    "at least 1": """
        class_guidance_scale train_batch_size gradient_accumulation_steps max_train_steps num_train_epochs checkpointing_steps
        checkpoints_total_limit logging_steps lr_num_cycles ClassifierConfig.resolution validation_steps
        max_images_per_class patch_size width layers early_stopping_patience eval_batch_size validation_images
        num_sample_images generator_channels residual_blocks discriminator_channels latent_dim
        layers_per_block validation_inference_steps num_instance_images num_class_images sample_batch_size
        tokenizer_max_length num_validation_images validation_epochs held_out_images rank max_pairs batch_size
        candidates num_images num_inference_steps num_lesions num_workers max_shard_size num_validations
        mapping_layers channel_base channel_max n_critic r1_interval path_length_interval ada_kimg autoencoder_steps
        unet_steps autoencoder_batch_size unet_batch_size text_width hidden_width preview num_processes num_machines
        main_process_port""",
    "at least 3": "latent_channels",
    "at least 4": "AutoencoderConfig.channels autoencoder_channels",
    "at least 2 and a power of 2": "downsampling",
    "at least 7": "min_images",
    "at least 8": """
        FromScratchConfig.resolution AdversarialConfig.resolution DdpmConfig.resolution VaeConfig.resolution
        monitor_samples""",
    "at least 21": "num_train_timesteps",
    "at least 48": "height",
    "at least 100": "bootstrap_draws",
    "above 0": "max_grad_norm snr_gamma",
    "in [0, 1)": """
        adam_beta1 adam_beta2 ema_decay head_dropout label_smoothing color_jitter intensity_scaling dropout
        class_dropout caption_dropout lora_dropout false_alarms max_copy_rate""",
    "above 0 and at most 1": "ClassifierConfig.crop random_crop keep strength",
    "from 0 to 1": "decay_start style_mixing",
    "in (-1, 1)": "ada_target",
    "from 8 to 32": "bit_depth",
    "from 0 to 4294967295": "seed seeds",
    "a positive multiple of 8": """
        DreamboothConfig.resolution DreamboothLoraConfig.resolution AutoencoderConfig.resolution TinyConfig.resolution
        GenerateConfig.resolution PrepareConfig.resolution""",
    "multiples of 8": "VaeConfig.channels",
    "multiples of 32": "DdpmConfig.channels",
    "at least 32 and a positive multiple of 4": "CycleganConfig.resolution",
    "at least 8 and a power of 2": "DcganConfig.resolution Stylegan2Config.resolution",
    "a reason in words": "force hub_force",
}
# Values that break the limit by the least, and values that only just keep it.
VALUES = {
    "at least 0": ([-1, -1e-9, float("nan")], [0]),
    "at least 1": ([0, 1 - 1e-9], [1]),
    "at least 3": ([2], [3]),
    "at least 4": ([3], [4]),
    "at least 2 and a power of 2": ([0, 1, 3, 6], [2, 4, 8]),
    "at least 7": ([6], [7]),
    "at least 8": ([7], [8]),
    "at least 21": ([20], [21]),
    "at least 48": ([47], [48]),
    "at least 100": ([99], [100]),
    "above 0": ([0.0, float("nan")], [1e-9]),
    "in [0, 1)": ([-1e-9, 1.0, float("nan")], [0.0, 1 - 1e-9]),
    "above 0 and at most 1": ([0.0, 1 + 1e-9], [1e-9, 1.0]),
    "from 0 to 1": ([-1e-9, 1 + 1e-9], [0.0, 1.0]),
    "in (-1, 1)": ([-1.0, 1.0], [-1 + 1e-9, 1 - 1e-9]),
    "from 8 to 32": ([7, 33], [8, 32]),
    "from 0 to 4294967295": ([-1, 2**32], [0, 2**32 - 1]),
    "a positive multiple of 8": ([0, -8, 7, 9], [8, 16]),
    "multiples of 8": ([0, -8, 7, 9], [8, 16]),
    "multiples of 32": ([0, -32, 31, 33], [32, 64]),
    "at least 32 and a positive multiple of 4": ([28, 33], [32, 36]),
    "at least 8 and a power of 2": ([0, 4, 12, 24], [8, 16, 512]),
    "a reason in words": (["", "because", " because "], ["looked at", "no copies were seen"]),
}
REQUIRED = {
    "real synthetic output_dir": "EvaluateConfig AuditConfig FilterConfig",
    "real synthetic output_dir classifier": "StudyConfig",
    "model output_dir": "GenerateConfig",
    "data_dir": """AutoencoderConfig ClassifierConfig FromScratchConfig AdversarialConfig DdpmConfig VaeConfig
        DcganConfig Stylegan2Config CycleganConfig""",
    "data_dir output_dir": "TinyConfig",
    "pretrained_model_name_or_path": "DreamboothConfig DreamboothLoraConfig",
    "output_dir": "PhantomConfig",
    "source output_dir": "PrepareConfig",
    "repo_id": "PublishConfig",
    "repo_id run": "PublishModelConfig",
    "repo_id data_dir": "PublishDatasetConfig",
    "folders output_dir": "ReportConfig",
    "files": "InspectConfig",
    "recipe": "LaunchConfig",
    "": "TrainConfig DoctorConfig InitConfig DemoConfig AppConfig",
}
POSITIONAL = {
    "AppConfig": "runs",
    "DemoConfig": "output_dir",
    "PrepareConfig": "source",
    "ReportConfig": "folders",
    "InspectConfig": "files",
    "PublishModelConfig": "run",
    "PublishDatasetConfig": "data_dir",
    "LaunchConfig": "recipe",
    "InitConfig": "recipe",
}
TRAINING = """
    output_dir max_train_steps num_train_epochs train_batch_size gradient_accumulation_steps checkpointing_steps
    checkpoints_total_limit resume_from_checkpoint logging_steps logging_dir report_to dataloader_num_workers
    mixed_precision method torch_compile allow_tf32 push_to_hub hub_model_id hub_force"""
FROM_SCRATCH = TRAINING + " cache_dir validation_steps num_sample_images"
DREAMBOOTH = f"""{TRAINING}
    enable_xformers_memory_efficient_attention cache_dir cache_latents pre_compute_text_embeddings sample_batch_size
    gradient_checkpointing validation_prompt validation_guidance_scale num_validation_images validation_steps
    validation_epochs validation_scheduler validation_base_rows held_out_steps held_out_images skip_save_text_encoder
    prior_generation_precision"""
# What a job may resume with another value of.
FREE = {
    "TrainConfig": TRAINING,
    "AutoencoderConfig": TRAINING,
    "ClassifierConfig": TRAINING,
    "DreamboothConfig": DREAMBOOTH,
    "DreamboothLoraConfig": DREAMBOOTH,
    **dict.fromkeys("FromScratchConfig AdversarialConfig DdpmConfig VaeConfig DcganConfig".split(), FROM_SCRATCH),
    **dict.fromkeys("Stylegan2Config CycleganConfig".split(), FROM_SCRATCH),
    "TinyConfig": "output_dir autoencoder_steps unet_steps mixed_precision report_to",
    "DemoConfig": "output_dir",
    "PhantomConfig": "output_dir",
    "PrepareConfig": "num_workers data_dir output_dir tokenizer partial preview",
    "GenerateConfig": "output_dir batch_size",
    "EvaluateConfig": "output_dir batch_size cache_dir",
    "FilterConfig": "output_dir batch_size cache_dir",
    "AuditConfig": "output_dir batch_size cache_dir max_copy_rate",
    "StudyConfig": "output_dir arms seeds bootstrap_draws baseline focus_class",
}


def settings_classes():
    modules = [importlib.import_module(f"dermgen.settings.{m.name}") for m in pkgutil.iter_modules(settings.__path__)]
    classes = [(module, value) for module in modules for value in vars(module).values() if isinstance(value, type)]
    return [c for module, c in classes if c.__name__.endswith("Config") and c.__module__ == module.__name__]


CLASSES = settings_classes()
every_class = pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)


def required(kind):
    return next(names.split() for names, kinds in REQUIRED.items() if kind.__name__ in kinds.split())


def is_list(kind, name):
    return "list" in str(next(field.type for field in dataclasses.fields(kind) if field.name == name))


def given(kind):
    """What makes valid settings of the class."""
    values = {name: ["x"] if is_list(kind, name) else "x" for name in required(kind)}
    if kind.__name__ == "PrepareConfig":
        values["output_dir"] = "y"
    if kind.__name__.startswith("Dreambooth"):
        values["data_dir"] = "x"
    if kind.__name__ == "AppConfig":  # or a model
        values["runs"] = ["x"]
    if kind.__name__ == "CycleganConfig":
        values |= {"class_a": "nv", "class_b": "mel"}
    return values


def limits(kind):
    """The options of the class that have a limit, with what they must be."""
    names = {field.name for field in dataclasses.fields(kind)}
    for words, options in LIMITS.items():
        for option in options.split():
            owner, _, name = option.rpartition(".")
            if name in names and owner in ("", kind.__name__):
                yield name, words


def refusal(kind, changes):
    """The sentence by which the class refuses the changed settings; "" if it takes them."""
    try:
        kind(**{**given(kind), **changes})
    except InputError as error:
        return str(error)
    return ""


@every_class
def test_a_value_just_outside_its_limit_is_refused_by_name_and_the_limit_itself_is_taken(kind):
    for name, words in limits(kind):
        outside, inside = VALUES[words]
        for value in outside:
            value = [value] if is_list(kind, name) else value
            assert refusal(kind, {name: value}) == f"{name} must be {words}, got {value!r}"
        for value in inside:
            value = [value] if is_list(kind, name) else value
            assert not refusal(kind, {name: value}).startswith(f"{name} must be {words}")


@every_class
def test_the_table_above_names_every_limit(kind):
    with_rule = [
        n
        for n, rules in rules_of(kind).items()
        if rules.keys() & {"at_least", "above", "within", "multiple_of", "power_of_2", "in_words"}
    ]
    assert sorted(with_rule) == sorted(name for name, _ in limits(kind))


@every_class
def test_a_missing_required_option_is_named_with_its_help(kind):
    kind(**given(kind))
    for name in required(kind):
        for nothing in (None, "", []):
            sentence = refusal(kind, {name: nothing})
            assert sentence.startswith(f"--{name} is needed")
            assert rules_of(kind)[name]["help"] in sentence


@every_class
def test_a_value_that_is_not_a_choice_is_refused_by_name_with_the_choices(kind):
    for name, rules in rules_of(kind).items():
        if "choices" in rules:
            choices = ", ".join(rules["choices"])
            assert refusal(kind, {name: "nonsense"}) == f"{name} must be one of {choices}, got 'nonsense'"


@every_class
def test_words_before_the_first_flag_are_taken_where_a_command_has_an_option_for_them(kind):
    values = given(kind)
    name = POSITIONAL.get(kind.__name__)
    word = values.pop(name, "x") if name else "x"
    words = word if isinstance(word, list) else [word]
    flags = [f"--{k}={v[0] if isinstance(v, list) else v}" for k, v in values.items()]
    takes_recipes = kind.__name__ not in ("DoctorConfig", "LaunchConfig")  # whose --config is an option of their own
    if name:
        assert getattr(parse(kind, [*words, *flags], takes_recipes), name) == word
    else:
        with pytest.raises(InputError, match="unexpected word 'x'"):
            parse(kind, [*words, *flags], takes_recipes)


@every_class
def test_a_job_resumes_with_another_value_of_a_free_option_and_of_no_other(kind, tmp_path):
    free = FREE.get(kind.__name__, "").split()
    for i, field in enumerate(dataclasses.fields(kind)):
        saved, now = kind(**given(kind)), kind(**given(kind))
        object.__setattr__(now, field.name, "another")
        claim_folder(tmp_path / str(i), saved)
        if field.name in free:
            claim_folder(tmp_path / str(i), now)
        else:
            with pytest.raises(InputError, match=f"{field.name} was .* and is 'another'"):
                claim_folder(tmp_path / str(i), now)


def test_the_help_states_the_limits_and_what_is_required(capsys):
    with pytest.raises(SystemExit):
        parse(FromScratchConfig, ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "whose train split is trained on (required)" in text
    assert "images per process and forward pass; at least 1 (default: 4)" in text
    assert "in [0, 1) (default: 0.999)" in text
