"""Robustness of commands that are killed, run out of disk space, or may not write.

    python benchmarks/chaos.py [--seed 0] [--kills 60 20 20 20] [--only ddpm prepare]

Every command is killed with SIGKILL at random moments, trainings also while they write a checkpoint; then the same
command is run again, and everything that it leaves must equal the output of two undisturbed runs, byte for byte,
except for times, the run's id and the command line. Inputs, and a user's files beside the output, must be unchanged.
Then every command writes to a disk that is too small, and to one that is read-only: it must end with one sentence, and
after the disk has grown, the same command must end like an undisturbed run. The disks need Linux and root.

Commands run in forks of one process that has imported torch, each in a folder of its own; one thread each.
"""

import argparse
import hashlib
import importlib.util
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

# The checkout of these benchmarks, unless PYTHONPATH names another.
sys.path.append(str(Path(__file__).parent.parent))
ROOT = Path(importlib.util.find_spec("dermgen").origin).parents[1]
SCRIPTS = ROOT / "train_scripts"
sys.path.insert(0, str(SCRIPTS))

# The clock, a run's id and where it was started; nothing else may differ.
VOLATILE = frozenset("run argv training_seconds seconds command".split())


@dataclass(frozen=True)
class Command:
    """A command line that writes to `out`, and how often it is killed; `name` is also that of a script if `script`."""

    name: str
    words: list[str]
    kills: int
    script: bool = False


def commands(inputs: Path, kills: list[int]) -> list[Command]:
    """The commands; `kills` is for trainings, prepare, generate, and the stages that judge or publish."""
    trained, prepared, generated, judged = kills
    data = ["--data_dir", f"{inputs}/manifest", "--output_dir", "out", "--report_to", "none"]
    often = ["--max_train_steps", "6", "--checkpointing_steps", "2", "--checkpoints_total_limit", "2"]
    small = ["--num_sample_images", "4", "--validation_steps", "3", "--validation_images", "8"]
    lora = [
        *("--pretrained_model_name_or_path", f"{inputs}/base", "--resolution", "32", "--ema_decay", "0.9"),
        *("--validation_prompt", "a mole", "--validation_steps", "3", "--num_validation_images", "1"),
    ]
    ddpm = ["--resolution", "16", "--channels", "32", "32", "--layers_per_block", "1", "--attention_resolutions", "8"]
    gan = ["--resolution", "16", "--latent_dim", "8", "--mapping_layers", "2", "--channel_base", "128"]
    both = ["--real", f"{inputs}/manifest", "--synthetic", f"{inputs}/drawn", "--output_dir", "out"]
    thirds = [trained - 2 * (trained // 3), trained // 3, trained // 3]
    shares = [judged - 2 * (judged // 3), judged // 3, judged // 3]
    return [
        Command("dreambooth_lora", [*data, *often, *lora], thirds[0], script=True),
        Command("ddpm", [*data, *often, *small, *ddpm, "--ema_decay", "0.9"], thirds[1], script=True),
        Command(
            "stylegan2", [*data, *often, *small, *gan, "--channel_max", "8", "--monitor_samples", "8"], thirds[2], True
        ),
        Command(
            "prepare",
            f"ham10000 --data_dir {inputs}/raw --output_dir out --resolution 64 --num_workers 1".split(),
            prepared,
        ),
        Command(
            "generate",
            f"--model {inputs}/ddpm --output_dir out --num_images 48 --num_inference_steps 2 --batch_size 4".split(),
            generated,
        ),
        Command("audit", [*both, "--max_copy_rate", "0.9"], shares[0]),
        Command(
            "study",
            [
                *both,
                *f"--classifier {inputs}/classifier.yaml --arms real+augment real+augment+synthetic".split(),
                *"--max_train_steps 4 --num_validations 2 --bootstrap_draws 100 --focus_class nv".split(),
            ],
            shares[1],
        ),
        Command(
            "publish",
            [*f"dataset {inputs}/drawn --repo_id me/set --output_dir out --dry_run --force".split(), "a trial of it"],
            shares[2],
        ),
    ]


def make_inputs(inputs: Path) -> None:
    """Phantoms, a manifest, a small untrained Stable Diffusion, a DDPM and what it generates."""
    import torch
    from diffusers import AutoencoderKL

    from dermgen.data import manifest
    from dermgen.stable_diffusion.small import build_pipeline

    def dermgen(line: str) -> None:
        run_dermgen(line.format(inputs=inputs).split())

    dermgen("phantom --output_dir {inputs}/raw --num_lesions 140 --height 64")
    dermgen(
        "prepare ham10000 --data_dir {inputs}/raw --output_dir {inputs}/manifest --resolution 32 --num_workers 1 "
        "--split 0.4 0.1 0.5"
    )
    torch.manual_seed(0)
    vae = AutoencoderKL(
        sample_size=32,
        block_out_channels=[8, 16],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=0.5,
    )
    captions = list(manifest.read(inputs / "manifest")["caption"])
    build_pipeline(vae, captions, sample_size=16, channels=(16, 32), text_width=32).save_pretrained(inputs / "base")
    (inputs / "classifier.yaml").write_text(
        "data_dir: x\nfrom_scratch: true\nresolution: 32\nwidth: 32\nlayers: 1\ntrain_batch_size: 8\nreport_to: none\n"
    )
    words = (
        f"--data_dir {inputs}/manifest --output_dir {inputs}/ddpm --resolution 32 --channels 32 32 --report_to none "
        "--layers_per_block 1 --attention_resolutions 16 --max_train_steps 2 --validation_steps 2 --class_conditional"
    )
    run_script("ddpm", [*words.split(), "--num_sample_images", "4", "--validation_images", "4"])
    dermgen("generate --model {inputs}/ddpm --output_dir {inputs}/drawn --classes mel:40,nv:40 --num_inference_steps 2")
    shutil.rmtree(inputs / "ddpm")
    words = words.replace(" --class_conditional", "")
    run_script("ddpm", [*words.split(), "--num_sample_images", "4", "--validation_images", "4"])


def run_dermgen(words: list[str]) -> None:
    from dermgen import cli

    sys.argv = ["dermgen", *words]
    cli.main()


def run_script(name: str, words: list[str]) -> None:
    import importlib

    sys.argv = [f"{name}.py", *words]
    importlib.import_module(name).main()


def fork(job: Callable[[], None], folder: Path) -> int:
    """Start `job` in a fork with `folder` as its working folder; its output goes to `folder/log`. Returns its id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setsid()
        os.chdir(folder)
        os.environ["DERMGEN_CACHE"] = str(folder / "cache")
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        job()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else bool(end.code)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def start(command: Command, folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    if command.script:
        return fork(lambda: run_script(command.name, command.words), folder)
    return fork(lambda: run_dermgen([command.name, *command.words]), folder)


def ended(pid: int) -> int:
    """Wait for a fork; its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def snapshot(folder: Path) -> dict[str, str]:
    """The content of a folder: each file's hash by its name, for JSON without volatile values."""
    found = {}
    paths = [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file())
    for path in paths:
        data = path.read_bytes()
        if path.suffix in (".json", ".jsonl"):
            with suppress(ValueError):  # a file cut short is compared as it is
                rows = [json.loads(line) for line in data.splitlines()] if path.suffix == ".jsonl" else json.loads(data)
                data = json.dumps(steady(rows), sort_keys=True).encode()
        elif path.name.startswith("random_states"):  # without accelerate's count of calls, which decides nothing
            import torch

            data = repr(
                {k: v for k, v in torch.load(io.BytesIO(data), weights_only=False).items() if k != "step"}
            ).encode()
        elif path.suffix == ".safetensors":  # whose library writes its metadata in any order
            length = 8 + int.from_bytes(data[:8], "little")
            data = json.dumps(json.loads(data[8:length]), sort_keys=True).encode() + data[length:]
        elif path.suffix == ".md":
            data = re.sub(rb"[\d.,]+ (seconds|minutes|hours)|\b[0-9a-f]{32}\b", b"", data)
        found[path.name if path == folder else str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return found


def steady(value):
    if isinstance(value, dict):
        return {key: steady(of) for key, of in value.items() if key not in VOLATILE}
    return [steady(of) for of in value] if isinstance(value, list) else value


def differences(expected: dict[str, str], found: dict[str, str]) -> str:
    """What differs; "" if they are equal."""
    parts = []
    for what, names in (
        ("missing", expected.keys() - found.keys()),
        ("left over", found.keys() - expected.keys()),
        ("other bytes in", {n for n in expected.keys() & found.keys() if expected[n] != found[n]}),
    ):
        if names:
            parts.append(f"{what} {', '.join(sorted(names)[:4])}" + (f" (+{len(names) - 4})" if len(names) > 4 else ""))
    return "; ".join(parts)


def kill(command: Command, folder: Path, rng: random.Random, seconds: float, in_checkpoint: bool) -> str:
    """Run the command and kill it, at a random moment or while a checkpoint is written; returns when that was."""
    begun, pid = time.monotonic(), start(command, folder)
    wanted = rng.uniform(0, seconds)
    if in_checkpoint:
        later, skip = rng.uniform(0, 0.02), rng.randrange(3)
        seen: set[str] = set()
        while len(seen) <= skip and os.waitpid(pid, os.WNOHANG) == (0, 0):
            seen |= {p.name for p in folder.glob("out/checkpoint-*.partial")}
            time.sleep(0.0005)
        time.sleep(later)
    else:
        time.sleep(wanted)
    try:
        os.killpg(pid, signal.SIGKILL)
        status = ended(pid)
    except (ProcessLookupError, ChildProcessError):
        return "too late"
    at = time.monotonic() - begun
    unfinished = sorted(p.name for p in folder.glob("out/checkpoint-*.partial"))
    return f"at {at:.1f} s" + (f" in {unfinished[0]}" if unfinished else "") + ("" if status == -9 else ", too late")


@dataclass
class Row:
    """A line of the table."""

    command: str
    trial: str
    times: int
    good: int
    faults: list[str]


def undisturbed(command: Command, place: Path) -> tuple[dict[str, str], float]:
    """The output of the command, the same in two runs, and its seconds."""
    found = []
    for i in range(2):
        folder = place / f"{command.name}-reference-{i}"
        begun = time.monotonic()
        status = ended(start(command, folder))
        seconds = time.monotonic() - begun
        if status:
            raise SystemExit(f"{command.name} fails undisturbed ({status}):\n{(folder / 'log').read_text()[-3000:]}")
        found.append(snapshot(folder / "out"))
    different = differences(*found)
    if different:
        raise SystemExit(f"{command.name}: two undisturbed runs differ: {different}")
    return found[0], seconds


def kills(command: Command, place: Path, inputs: Path, rng: random.Random, expected: dict, seconds: float) -> Row:
    before, faults, good, in_checkpoints = snapshot(inputs), [], 0, 0
    for i in range(command.kills):
        folder, when = place / f"{command.name}-{i}", "too late"
        while "too late" in when:  # the command had ended before; another moment is drawn
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            (folder / "mine.txt").write_text("a user's own file")
            when = kill(command, folder, rng, seconds, in_checkpoint=command.script and i % 2 == 1)
        in_checkpoints += "checkpoint" in when
        status = ended(start(command, folder))
        fault = f"exit status {status}: {(folder / 'log').read_text()[-300:]}" if status else ""
        fault = fault or differences(expected, snapshot(folder / "out"))
        if (folder / "mine.txt").read_text() != "a user's own file":
            fault += "; a user's file was changed"
        if fault:
            faults.append(f"killed {when}: {fault}")
        else:
            good += 1
            shutil.rmtree(folder)
    if snapshot(inputs) != before:
        faults.append("an input was changed")
    what = f"kill -9, {in_checkpoints} in a checkpoint" if command.script else "kill -9"
    return Row(command.name, what, command.kills, good, faults)


def one_sentence(folder: Path, status: int) -> str:
    """ "" if the command ended with a sentence and no traceback."""
    log = (folder.parent / "log" if not (folder / "log").exists() else folder / "log").read_text()
    if status != 2 or "Traceback" in log or not re.search(r"^error: ", log, re.M):
        return f"exit status {status}: …{log[-600:]}"
    return ""


def disks(command: Command, place: Path, expected: dict) -> list[Row]:
    """Disks of several sizes that are too small and then grown, and one that is read-only."""
    used = sum(p.stat().st_size for p in (place / f"{command.name}-reference-0" / "out").rglob("*") if p.is_file())
    small, good = [], 0
    for share in (0.02, 0.3, 0.6, 0.9):
        folder = place / f"{command.name}-disk-{share}"
        (folder / "out").mkdir(parents=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={max(4096, int(used * share))}", "tmpfs", str(folder / "out")]
        subprocess.run(mount, check=True)
        try:
            status = ended(start(command, folder))
            fault = one_sentence(folder, status) if status else "" if share > 0.5 else "it did not notice"
            subprocess.run(["mount", "-o", f"remount,size={used * 8 + 2**24}", str(folder / "out")], check=True)
            status = ended(start(command, folder))
            fault = fault or (f"afterwards {one_sentence(folder, status)}" if status else "")
            fault = fault or differences(expected, snapshot(folder / "out"))
        finally:
            subprocess.run(["umount", "-l", str(folder / "out")], check=True)
        if fault:
            small.append(f"{share:.0%} of {used} bytes: {fault}")
        else:
            good += 1
    folder = place / f"{command.name}-read-only"
    (folder / "out").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder / "out")], check=True)
    try:
        fault = one_sentence(folder, ended(start(command, folder)))
    finally:
        subprocess.run(["umount", "-l", str(folder / "out")], check=True)
    return [
        Row(command.name, "full disk", 4, good, small),
        Row(command.name, "read-only", 1, int(not fault), [fault] if fault else []),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, nargs=4, default=[60, 20, 20, 20])
    parser.add_argument("--only", nargs="+", help="commands; default all")
    parser.add_argument("--keep", help="a new folder for everything, which stays")
    args = parser.parse_args()
    place = Path(args.keep or tempfile.mkdtemp(prefix="chaos-")).resolve()
    inputs = place / "inputs"
    inputs.mkdir(parents=True)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        import dermgen.classify.study
        import dermgen.evaluate.audit
        import dermgen.methods.dreambooth
        import dermgen.methods.stylegan2
        import dermgen.publish.after_training
        import dermgen.publish.dataset  # noqa: F401
    log = fork(lambda: make_inputs(inputs), place)
    if ended(log):
        raise SystemExit(f"the inputs could not be made:\n{(place / 'log').read_text()[-3000:]}")
    disks_here = os.geteuid() == 0 and shutil.which("mount")
    rows, rng = [], random.Random(args.seed)
    for command in commands(inputs, args.kills):
        if args.only and command.name not in args.only:
            continue
        expected, seconds = undisturbed(command, place)
        found = [kills(command, place, inputs, rng, expected, seconds)] if command.kills else []
        found += disks(command, place, expected) if disks_here else []
        for row in found:
            print(f"| {row.command} | {row.trial} | {row.times} | {row.good} |", flush=True)
            for fault in row.faults:
                print(f"    {fault}", flush=True)
        rows += found
    print("\n| command | trial | times | ends as undisturbed |\n| --- | --- | --- | --- |")
    for row in rows:
        print(f"| {row.command} | {row.trial} | {row.times} | {row.good} |")
    if not disks_here:
        print("full and read-only disks: not tried, which needs root")
    if not args.keep:
        shutil.rmtree(place)
    sys.exit(any(row.faults for row in rows))


if __name__ == "__main__":
    main()
