"""The scripts take the command lines of diffusers' DreamBooth scripts and leave files of the same names."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dermgen.config import parse
from dermgen.settings.dreambooth import DreamboothConfig, DreamboothLoraConfig

ROOT = Path(__file__).parent.parent

# Every option of examples/dreambooth/train_dreambooth.py and train_dreambooth_lora.py, with a value that is not the
# default. DeepFloyd IF's --validation_images is known, and refused; so is --hub_token.
SHARED = """
    --pretrained_model_name_or_path m --revision r --variant fp16 --tokenizer_name t --instance_data_dir i
    --class_data_dir c --instance_prompt p --class_prompt q --with_prior_preservation --prior_loss_weight 0.5
    --num_class_images 7 --output_dir o --seed 3 --resolution 256 --center_crop --train_text_encoder
    --train_batch_size 2 --sample_batch_size 3 --num_train_epochs 2 --max_train_steps 9 --checkpointing_steps 4
    --checkpoints_total_limit 2 --resume_from_checkpoint latest --gradient_accumulation_steps 2
    --gradient_checkpointing --learning_rate 1e-6 --scale_lr --lr_scheduler cosine --lr_warmup_steps 5
    --lr_num_cycles 2 --lr_power 2.0 --use_8bit_adam --dataloader_num_workers 1 --adam_beta1 0.8 --adam_beta2 0.9
    --adam_weight_decay 0.1 --adam_epsilon 1e-7 --max_grad_norm 2.0 --push_to_hub --hub_model_id h
    --logging_dir l --allow_tf32 --report_to tensorboard --validation_prompt v --num_validation_images 2
    --mixed_precision bf16 --prior_generation_precision fp32 --local_rank 0
    --enable_xformers_memory_efficient_attention --tokenizer_max_length 60 --text_encoder_use_attention_mask
    --class_labels_conditioning timesteps
"""
ONLY_FULL = """--validation_steps 50 --set_grads_to_none --offset_noise --snr_gamma 5.0 --skip_save_text_encoder
    --validation_scheduler DDPMScheduler"""
ONLY_LORA = "--validation_epochs 3 --rank 8 --lora_dropout 0.1 --image_interpolation_mode bicubic"
DEFAULTS = {
    "train_batch_size": 4,
    "resolution": 512,
    "num_class_images": 100,
    "lr_scheduler": "constant",
    "checkpointing_steps": 500,
    "adam_weight_decay": 1e-2,
    "prior_loss_weight": 1.0,
    "num_validation_images": 4,
    "center_crop": False,
}


@pytest.mark.parametrize(
    ("kind", "own", "defaults", "validation_steps"),
    [
        (
            DreamboothConfig,
            ONLY_FULL,
            {"learning_rate": 5e-6, "output_dir": "dreambooth-model"},
            100,
        ),
        (
            DreamboothLoraConfig,
            ONLY_LORA,
            {"learning_rate": 5e-4, "output_dir": "lora-dreambooth-model", "rank": 4},
            50 * 7,
        ),
    ],
)
def test_every_option_of_diffusers_scripts_is_accepted_with_its_default(kind, own, defaults, validation_steps):
    config = parse(kind, (SHARED + own).split())
    assert (config.with_prior_preservation, config.scale_lr, config.lr_power, config.seed) == (True, True, 2.0, 3)
    assert config.validation_prompt == ["v"]
    plain = parse(kind, "--pretrained_model_name_or_path m --instance_data_dir i --instance_prompt p".split())
    for name, value in (DEFAULTS | defaults).items():
        assert getattr(plain, name) == value, name
    assert dataclasses.replace(plain, validation_prompt=["v"]).validate_every(steps_per_epoch=7) == validation_steps
    assert plain.validate_every(steps_per_epoch=7) is None
    precomputed = parse(
        kind,
        "--pretrained_model_name_or_path m --instance_data_dir i --instance_prompt p --pre_compute_text_embeddings".split(),
    )
    assert precomputed.pre_compute_text_embeddings is True


def launch(script, *flags):
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--quiet",
        "--config_file",
        "accelerate_configs/cpu.yaml",
    ]
    return subprocess.run(
        [*command, f"train_scripts/{script}.py", *map(str, flags)], cwd=ROOT, capture_output=True, text=True
    )


@pytest.fixture
def instances(manifest_dir, tmp_path):
    folder = tmp_path / "instances"
    folder.mkdir()
    for path in sorted((manifest_dir / "images").glob("*.png"))[:3]:
        Image.open(path).resize((60, 45)).save(folder / f"{path.stem}.jpg")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("script", ["dreambooth", "dreambooth_lora"])
def test_a_command_line_of_diffusers_documentation_trains_and_resumes(script, base_dir, instances, tmp_path):
    out = tmp_path / "out"
    flags = f"""
        --pretrained_model_name_or_path {base_dir} --instance_data_dir {instances} --output_dir {out}
        --with_prior_preservation --class_data_dir {tmp_path / "class"} --num_class_images 2 --resolution 32
        --train_batch_size 1 --gradient_accumulation_steps 1 --learning_rate 5.0e-04 --scale_lr --lr_scheduler constant
        --lr_warmup_steps 0 --checkpointing_steps 2 --checkpoints_total_limit 2 --seed 0 --train_text_encoder
        --report_to tensorboard
    """.split()
    prompts = ["--instance_prompt", "photo of a sks lesion", "--class_prompt", "photo of a lesion"]
    first = launch(script, *flags, *prompts, "--max_train_steps", 4)
    assert first.returncode == 0, first.stderr
    again = launch(script, *flags, *prompts, "--max_train_steps", 8, "--resume_from_checkpoint", "checkpoint-4")
    assert again.returncode == 0, again.stderr
    assert "Resuming from" in again.stderr
    assert sorted(p.name for p in out.glob("checkpoint-*")) == ["checkpoint-6", "checkpoint-8"]
    if script == "dreambooth":
        assert {"model_index.json", "unet", "text_encoder", "vae"} <= {p.name for p in out.iterdir()}
        assert (out / "checkpoint-6" / "unet").is_dir()
    else:
        assert (out / "pytorch_lora_weights.safetensors").exists()
        assert (out / "checkpoint-6" / "pytorch_lora_weights.safetensors").exists()
    assert list((out / "logs").rglob("events.out.tfevents.*"))


@pytest.mark.slow
def test_a_mistake_on_the_command_line_is_one_line_without_a_traceback(instances):
    result = launch(
        "dreambooth_lora",
        "--pretrained_model_name_or_path",
        "/nowhere",
        "--instance_data_dir",
        instances,
        "--instance_prompt",
        "x",
        "--output_dir",
        "/nowhere/run",
    )
    assert result.returncode != 0
    assert result.stderr.splitlines()[-1] == "error: no such model folder: /nowhere"
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_pushing_without_access_fails_before_training(base_dir, instances, tmp_path):
    flags = (
        f"--pretrained_model_name_or_path {base_dir} --instance_data_dir {instances} --output_dir {tmp_path / 'run'}"
    )
    result = launch("dreambooth_lora", *flags.split(), "--instance_prompt", "x", "--push_to_hub")
    assert result.returncode != 0
    assert "error: cannot write to 'run' on the Hub without a token: `hf auth login`, or set HF_TOKEN" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_train_dreambooth_as_one_does(base_dir, manifest_dir, tmp_path):
    import json

    losses = {}
    for name, processes, batch in (("one", 1, 2), ("two", 2, 1)):
        flags = f"""--pretrained_model_name_or_path {base_dir} --data_dir {manifest_dir} --output_dir {tmp_path / name}
            --instance_class mel --instance_prompt melanoma --resolution 32 --max_train_steps 3 --logging_steps 1
            --train_batch_size {batch} --with_prior_preservation --class_data_dir {tmp_path / name}_class
            --class_prompt nevus --num_class_images 4 --sample_batch_size 2 --report_to none --random_flip
            --train_text_encoder --cache_dir {tmp_path / name}_cache --ema_decay 0.9 --lr_warmup_steps 0""".split()
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        env = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        result = subprocess.run(
            [*start, "train_scripts/dreambooth_lora.py", *flags], cwd=ROOT, env=env, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        assert len(list((tmp_path / f"{name}_class").glob("*.png"))) == 4
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        losses[name] = [json.loads(line)["loss"] for line in lines]
    assert losses["one"] == pytest.approx(losses["two"], rel=1e-3)
    shutil.rmtree(tmp_path / "one")
