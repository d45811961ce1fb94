"""Resuming, accumulation, several processes and kills do not change what a run computes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file
from torch import nn
from toy_run import ToyConfig, build, train

from dermgen.config import InputError
from dermgen.training import trained_weights
from dermgen.training.best import Scores
from dermgen.training.checkpoints import STATE_FILE, checkpoints
from dermgen.training.run import Run
from dermgen.training.trained_weights import load_trained_state

TOY = str(Path(__file__).with_name("toy_run.py"))
SETTINGS = {
    "train_batch_size": 4,
    "max_train_steps": 6,
    "checkpointing_steps": 2,
    "ema_decay": 0.9,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 1,
}


def fresh():
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def toy(folder, **changes) -> tuple[nn.Module, Run]:
    fresh()
    return train(ToyConfig(output_dir=str(folder), **{**SETTINGS, **changes}))


def launch(folder, processes=1, wait=True, **changes):
    flags = [f"--{k}={v}" for k, v in {**SETTINGS, "output_dir": folder, **changes}.items()]
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*start, TOY, *flags], env=env, stderr=subprocess.PIPE, text=True)
    if wait:
        process.stderr_text = process.communicate(timeout=120)[1]
    return process


def weights(net) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def averaged(net, run) -> torch.Tensor:
    with run.averaged_weights():
        return weights(net).clone()


def metrics(folder) -> list[dict]:
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


def assert_same_final_state(a: Path, b: Path, exact: bool = True):
    ours, theirs = load_file(a / "final.safetensors"), load_file(b / "final.safetensors")
    for name, value in ours.items():
        if exact:
            assert torch.equal(value, theirs[name]), name
        else:
            torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_resumed_run_ends_with_the_same_bits_as_an_uninterrupted_one(tmp_path, accumulation):
    whole, whole_run = toy(tmp_path / "a", gradient_accumulation_steps=accumulation, logging_steps=3)
    toy(tmp_path / "b", gradient_accumulation_steps=accumulation, logging_steps=3)
    for step in (4, 6):  # as if the run had been stopped in step 3
        shutil.rmtree(tmp_path / "b" / f"checkpoint-{step}")
    resumed, resumed_run = toy(tmp_path / "b", gradient_accumulation_steps=accumulation, logging_steps=3)
    assert torch.equal(weights(whole), weights(resumed))
    assert torch.equal(averaged(whole, whole_run), averaged(resumed, resumed_run))
    assert not torch.equal(averaged(whole, whole_run), weights(whole))
    for a, b in zip(*(r._optimizers[0].state_dict()["state"].values() for r in (whole_run, resumed_run)), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    assert [line["step"] for line in metrics(tmp_path / "b")] == [3, 6]


def test_accumulation_gives_what_a_larger_batch_gives(tmp_path):
    large, _ = toy(tmp_path / "a", train_batch_size=4)
    small, _ = toy(tmp_path / "b", train_batch_size=2, gradient_accumulation_steps=2)
    torch.testing.assert_close(weights(large), weights(small), rtol=1e-4, atol=1e-6)
    for a, b in zip(metrics(tmp_path / "a"), metrics(tmp_path / "b"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)


@pytest.mark.slow
def test_two_processes_train_as_one_does_and_one_process_can_resume_their_run(tmp_path):
    for folder, processes, batch in (("one", 1, 4), ("two", 2, 2), ("mixed", 2, 2)):
        process = launch(tmp_path / folder, processes, train_batch_size=batch)
        assert process.returncode == 0, process.stderr_text
    assert_same_final_state(tmp_path / "one", tmp_path / "two", exact=False)
    assert_same_final_state(tmp_path / "two", tmp_path / "mixed")
    for a, b in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    for step in (4, 6):
        shutil.rmtree(tmp_path / "mixed" / f"checkpoint-{step}")
    process = launch(tmp_path / "mixed", 1, train_batch_size=4)
    assert process.returncode == 0, process.stderr_text
    assert_same_final_state(tmp_path / "one", tmp_path / "mixed", exact=False)


def test_processes_that_are_not_connected_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="2 processes were started, but accelerate runs each by itself"):
        toy(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["saving", "whole", "rotating", "ending"])
def test_a_run_killed_in_the_middle_of_a_checkpoint_resumes_to_the_same_end(tmp_path, moment):
    whole, _ = toy(tmp_path / "whole")
    killed = launch(tmp_path / "killed", die=moment, checkpoints_total_limit=1)
    assert killed.returncode == -signal.SIGKILL
    again, _ = toy(tmp_path / "killed", checkpoints_total_limit=1)
    assert torch.equal(weights(whole), weights(again))
    assert [p.name for p in (tmp_path / "killed").glob("checkpoint-*")] == ["checkpoint-6"]
    written, expected = (json.loads((tmp_path / name / "provenance.json").read_text()) for name in ("killed", "whole"))
    assert written.keys() == expected.keys()
    assert written["finished_step"] == 6


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_a_checkpoint_and_prints_how_to_resume(tmp_path, number):
    process = launch(tmp_path / "run", wait=False, sleep=0.2, max_train_steps=100, lr_scheduler="constant")
    log = tmp_path / "run" / "metrics.jsonl"
    while not log.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    text = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number, text
    step = checkpoints(tmp_path / "run")[-1].name.split("-")[1]
    assert f"Stopped by {number.name} after step {step} of 100" in text
    assert "Run the same command again to resume" in text
    assert 1 <= int(step) < 100
    whole, _ = toy(tmp_path / "whole", max_train_steps=int(step) + 2, lr_scheduler="constant")
    again, _ = toy(tmp_path / "run", max_train_steps=int(step) + 2, lr_scheduler="constant")
    assert torch.equal(weights(whole), weights(again))


def test_only_this_runs_checkpoints_are_rotated_and_by_number(tmp_path):
    toy(tmp_path, max_train_steps=4, checkpointing_steps=1)
    shutil.copytree(tmp_path / "checkpoint-2", tmp_path / "checkpoint-2-kept-by-me")
    foreign = tmp_path / "checkpoint-3"
    foreign.joinpath(STATE_FILE).write_text(json.dumps({**json.loads((foreign / STATE_FILE).read_text()), "run": "x"}))
    toy(tmp_path, max_train_steps=11, checkpointing_steps=1, checkpoints_total_limit=2)
    left = sorted(p.name for p in tmp_path.glob("checkpoint-*"))
    assert left == ["checkpoint-10", "checkpoint-11", "checkpoint-2-kept-by-me", "checkpoint-3"]


def test_a_run_resumes_from_an_older_checkpoint_on_request(tmp_path):
    whole, _ = toy(tmp_path)
    again, _ = toy(tmp_path, resume_from_checkpoint="checkpoint-2")
    assert torch.equal(weights(whole), weights(again))
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]
    with pytest.raises(InputError, match=r"checkpoint-3 is not a complete checkpoint; choose one of: checkpoint-2"):
        toy(tmp_path, resume_from_checkpoint="checkpoint-3")


def test_resuming_from_an_older_checkpoint_drops_the_later_ones(tmp_path):
    toy(tmp_path, checkpoints_total_limit=3)
    toy(tmp_path, resume_from_checkpoint="checkpoint-2", max_train_steps=3, checkpoints_total_limit=1)
    assert [p.name for p in checkpoints(tmp_path)] == ["checkpoint-3"]


def test_a_run_killed_before_its_first_checkpoint_starts_its_metrics_anew(tmp_path):
    toy(tmp_path)
    for path in checkpoints(tmp_path):
        shutil.rmtree(path)
    toy(tmp_path)
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_accumulation_may_change_on_resume_at_an_odd_step(tmp_path):
    whole, _ = toy(tmp_path / "whole", checkpointing_steps=3)
    toy(tmp_path / "cut", checkpointing_steps=3)
    shutil.rmtree(tmp_path / "cut" / "checkpoint-6")
    again, _ = toy(tmp_path / "cut", checkpointing_steps=3, train_batch_size=2, gradient_accumulation_steps=2)
    torch.testing.assert_close(weights(whole), weights(again), rtol=1e-4, atol=1e-6)


def test_a_changed_setting_or_number_of_images_per_step_is_refused_by_name(tmp_path):
    toy(tmp_path)
    with pytest.raises(InputError, match=r"learning_rate was 0\.05 and is 0\.1"):
        toy(tmp_path, learning_rate=0.1)
    with pytest.raises(InputError, match="4 images per step, this run has 6"):
        toy(tmp_path, train_batch_size=6, max_train_steps=8)
    toy(tmp_path, train_batch_size=1, gradient_accumulation_steps=4, max_train_steps=7)


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="has files in it that are not dermgen's"):
        toy(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_nan_loss_stops_with_the_step_the_images_and_the_last_good_checkpoint(tmp_path):
    with pytest.raises(InputError, match=r"NaN or infinite in step 3, on images image\d, .*checkpoint-2"):
        toy(tmp_path, poison=3)
    healthy, _ = toy(tmp_path / "healthy")
    resumed, _ = toy(tmp_path)
    assert torch.equal(weights(healthy), weights(resumed))


def test_weights_after_a_nan_gradient_are_not_saved(tmp_path):
    with pytest.raises(InputError, match=r"gradient of the loss became NaN .* in step 4, .*checkpoint-2"):
        toy(tmp_path, poison_gradient=4, checkpoints_total_limit=1)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    for name in ("model.safetensors", "ema.safetensors"):
        assert all(value.isfinite().all() for value in load_file(tmp_path / "checkpoint-2" / name).values())
    healthy, healthy_run = toy(tmp_path / "healthy")
    resumed, resumed_run = toy(tmp_path)
    assert torch.equal(weights(healthy), weights(resumed))
    assert torch.equal(averaged(healthy, healthy_run), averaged(resumed, resumed_run))


def test_a_nan_gradient_stops_the_run_before_its_weights_are_validated(tmp_path):
    run = Run(ToyConfig(output_dir=str(tmp_path), **SETTINGS))
    net = nn.Linear(3, 1)
    model, optimizer = run.prepare(net, torch.optim.SGD(net.parameters(), lr=0.1))
    validated = []
    with pytest.raises(InputError, match="in step 3"):
        for batch in run.batches([torch.ones(3)] * 4):
            loss = model(batch).pow(2).mean()
            run.update(loss + (loss - loss.detach()).abs().sqrt() if run.step == 3 else loss, optimizer)
            if run.due(1):
                validated.append(run.step)
    assert validated == [1, 2]


def test_a_step_that_a_gradient_scaler_skips_does_not_stop_the_run(tmp_path):
    run = Run(ToyConfig(output_dir=str(tmp_path), **{**SETTINGS, "ema_decay": 0.0}))
    run.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)  # as under fp16 on a GPU
    net = nn.Linear(3, 1)
    model, optimizer = run.prepare(net, torch.optim.SGD(net.parameters(), lr=0.1))
    seen = []
    for batch in run.batches([torch.ones(3)] * 4):
        seen.append(weights(net).clone())
        loss = model(batch).pow(2).mean()
        run.update(loss + (loss - loss.detach()).abs().sqrt() if run.step == 3 else loss, optimizer)
    assert torch.equal(seen[2], seen[3])
    assert not torch.equal(seen[3], seen[4])
    assert run.accelerator.scaler.get_scale() == 2.0


def test_a_validation_that_gives_nan_is_never_the_best():
    measured = {10: float("nan"), 20: 3.0, 30: float("nan")}
    assert Scores(measured, lower_is_better=True).best_step == 20
    assert Scores(measured, lower_is_better=False).best_step == 20


def test_the_best_step_is_the_first_of_equals_in_the_better_direction():
    measured = {10: 2.0, 20: 1.0, 30: 1.0, 40: 2.0}
    assert Scores(measured, lower_is_better=True).best_step == 20
    assert Scores(measured, lower_is_better=False).best_step == 10


def test_a_full_disk_while_saving_keeps_the_last_whole_checkpoint(tmp_path, monkeypatch):
    toy(tmp_path, max_train_steps=2)

    def no_room(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trained_weights, "save_file", no_room)
    with pytest.raises(
        InputError, match=r"checkpoint-4 could not be written .*No space left.*last whole .*checkpoint-2"
    ):
        toy(tmp_path)
    assert not list(tmp_path.glob("*.partial"))
    monkeypatch.undo()
    whole, _ = toy(tmp_path / "whole")
    again, _ = toy(tmp_path)
    assert torch.equal(weights(whole), weights(again))


def test_weights_that_get_no_gradient_stop_the_run_in_its_first_step(tmp_path):
    run = Run(ToyConfig(output_dir=str(tmp_path), **SETTINGS))
    net = build()
    model, optimizer = run.prepare(net, torch.optim.SGD(net.parameters(), lr=1.0))
    with pytest.raises(RuntimeError, match="no gradient reached"):
        for batch in run.batches([torch.ones(3)]):
            run.update(model(batch).sum() * 0, optimizer)


def test_a_checkpoint_that_lacks_a_trained_weight_is_refused():
    net = build()
    net[0].requires_grad_(False)
    state = {name: value for name, value in net.state_dict().items() if name.startswith("2.")}
    load_trained_state(net, state)
    del state["2.bias"]
    with pytest.raises(InputError, match=r"1 trained weight is missing, 0 are unknown \(such as 2\.bias\)"):
        load_trained_state(net, state)


def test_frozen_weights_stay_out_of_checkpoints(tmp_path):
    run = Run(ToyConfig(output_dir=str(tmp_path), **{**SETTINGS, "max_train_steps": 1}))
    net = build()
    net[0].requires_grad_(False)
    model, optimizer = run.prepare(net, torch.optim.SGD(net[2].parameters(), lr=0.1))
    for batch in run.batches([torch.ones(3)]):
        run.update(model(batch).pow(2).sum(), optimizer)
    assert load_file(tmp_path / "checkpoint-1" / "model.safetensors").keys() == {"2.weight", "2.bias"}


def test_two_optimizers_step_once_each_and_only_the_averaged_one_moves_the_average(tmp_path):
    run = Run(ToyConfig(output_dir=str(tmp_path), **{**SETTINGS, "max_train_steps": 3}, gradient_accumulation_steps=2))
    generator, critic = nn.Linear(2, 3), nn.Linear(3, 1)
    g, d, g_optimizer, d_optimizer = run.prepare(
        generator,
        critic,
        torch.optim.Adam(generator.parameters()),
        torch.optim.Adam(critic.parameters()),
        average=generator,
    )
    count = 0
    for real in run.batches([torch.randn(3) for _ in range(8)]):
        fake = g(run.draws.normal(2))
        run.update(nn.functional.softplus(d(fake.detach()) - d(real)).mean(), d_optimizer)
        run.update(nn.functional.softplus(-d(fake)).mean(), g_optimizer)
        count += 1
    assert (count, run.step, run._average.ema.optimization_step) == (6, 3, 3)


def test_averaged_weights_are_the_exponential_average_and_the_live_ones_come_back(tmp_path):
    run = Run(ToyConfig(output_dir=str(tmp_path), **{**SETTINGS, "ema_decay": 0.5, "max_train_steps": 8}))
    net = nn.Linear(1, 1, bias=False)
    model, optimizer = run.prepare(net, torch.optim.SGD(net.parameters(), lr=0.1), average=net)
    live = []
    for batch in run.batches([torch.ones(1)]):
        run.update(model(batch).pow(2).sum(), optimizer)
        live.append(net.weight.item())
    average = live[0]  # diffusers' EMAModel starts at the first step and warms its decay up
    for step, value in enumerate(live[1:], start=1):
        decay = min((1 + step) / (10 + step), 0.5)
        average = decay * average + (1 - decay) * value
    with run.averaged_weights():
        assert net.weight.item() == pytest.approx(average, rel=1e-5)
    assert net.weight.item() == live[-1]


def test_learning_rates_are_those_of_diffusers_schedulers(tmp_path):
    from diffusers.optimization import get_scheduler

    for name in ("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"):
        shape = {"lr_scheduler": name, "lr_warmup_steps": 2, "lr_num_cycles": 2, "lr_power": 2.0}
        toy(tmp_path / name, **shape)
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.05)
        scheduler = get_scheduler(name, optimizer, num_warmup_steps=2, num_training_steps=6, num_cycles=2, power=2.0)
        expected = []
        for _ in range(6):
            expected.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        assert [line["learning_rate"] for line in metrics(tmp_path / name)] == pytest.approx(expected), name


def test_epochs_become_steps_as_in_diffusers_scripts(tmp_path):
    _, run = toy(tmp_path, max_train_steps=None, num_train_epochs=3, train_batch_size=4, gradient_accumulation_steps=2)
    assert run.step == 3 * 2  # 10 images: 3 batches an epoch, 2 optimizer steps


def test_bf16_rounds_the_loss_and_not_the_weights_and_fp16_without_a_gpu_is_an_error(tmp_path):
    toy(tmp_path / "a", max_train_steps=1)
    rounded, _ = toy(tmp_path / "b", mixed_precision="bf16", max_train_steps=1)
    exact_loss, rounded_loss = (metrics(tmp_path / name)[0]["loss"] for name in "ab")
    assert 0 < abs(rounded_loss / exact_loss - 1) < 2**-7  # bfloat16 has 8 bits of precision
    assert weights(rounded).dtype == torch.float32  # only the forward pass is rounded
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="fp16"):
            toy(tmp_path / "c", mixed_precision="fp16")
