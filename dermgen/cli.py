"""`dermgen <command>`: each command parses its settings and calls one function."""

import argparse
import sys

from dermgen import __version__
from dermgen.config import parse, user_errors


def phantom(argv):
    """draw phantom lesions of 7 classes, in the HAM10000 layout"""
    from dermgen.data.phantom import PhantomConfig, write_phantoms

    write_phantoms(parse(PhantomConfig, argv))


def prepare(argv):
    """read HAM10000, ISIC, a folder or a Hub data set; clean, split, write a manifest"""
    from dermgen.data.prepare import PrepareConfig, prepare

    if argv and not argv[0].startswith("-"):
        argv = ["--source", *argv]
    prepare(parse(PrepareConfig, argv))


def tiny(argv):
    """train a small Stable Diffusion from scratch on a manifest"""
    from dermgen.tiny import TinyConfig, train_tiny

    train_tiny(parse(TinyConfig, argv))


def generate(argv):
    """draw images from a run or a Hub model, with full provenance"""
    from dermgen.generate import GenerateConfig, generate

    generate(parse(GenerateConfig, argv))


def evaluate(argv):
    """score a synthetic set: FID, KID, precision, recall, … with intervals and floors"""
    from dermgen.evaluate.evaluate import EvaluateConfig, evaluate

    evaluate(parse(EvaluateConfig, argv))


def audit(argv):
    """find synthetic images that copy a training image; exit status 2 if there are too many"""
    from dermgen.evaluate.memorization import AuditConfig, audit

    if not audit(parse(AuditConfig, argv))["passed"]:
        sys.exit(2)


def filter(argv):
    """score synthetic images, keep the best share, and say what that costs"""
    from dermgen.filtering import FilterConfig, filter_images

    filter_images(parse(FilterConfig, argv))


def study(argv):
    """train classifiers with and without synthetic images and say which gains are real"""
    from dermgen.classify.study import StudyConfig, study

    study(parse(StudyConfig, argv))


def report(argv):
    """one self-contained HTML page from the folders of the stages"""
    from dermgen.report import ReportConfig, report

    first_flag = next((i for i, a in enumerate(argv) if a.startswith("-")), len(argv))
    folders = ["--folders", *argv[:first_flag]] if first_flag else []
    report(parse(ReportConfig, [*folders, *argv[first_flag:]]))


def publish(argv):
    """send a model or a data set to the Hub, with its card, if the gates are open"""
    kinds = {"model": "a finished run: RUN --repo_id org/name", "dataset": "a set of images: DIR --repo_id org/name"}
    if not argv or argv[0] not in kinds:
        lines = "\n".join(f"  dermgen publish {kind:<8} {what}" for kind, what in kinds.items())
        print(f"usage:\n{lines}\n`dermgen publish model --help` and `dermgen publish dataset --help` list the options.")
        sys.exit(0 if argv[:1] in (["--help"], ["-h"]) else 2)
    kind, *argv = argv
    named = bool(argv) and not argv[0].startswith("-")
    if kind == "model":
        from dermgen.publish.model import PublishModelConfig, publish_model

        publish_model(parse(PublishModelConfig, ["--run", *argv] if named else argv))
    else:
        from dermgen.publish.dataset import PublishDatasetConfig, publish_dataset

        publish_dataset(parse(PublishDatasetConfig, ["--data_dir", *argv] if named else argv))


def inspect(argv):
    """tell whether an image says that it is synthetic: by its text, by its watermark"""
    from dermgen.inspection import InspectConfig, inspect

    inspect(parse(InspectConfig, ["--files", *argv] if argv and not argv[0].startswith("-") else argv))


def doctor(argv):
    """check the installation, and with --config all that a recipe needs; exit status 1 if something is amiss"""
    try:
        from dermgen.doctor import DoctorConfig, doctor
    except ModuleNotFoundError as error:
        print(f"FIX   packages   {error.name} is not installed: pip install -e . in dermgen's folder")
        sys.exit(1)
    if not doctor(parse(DoctorConfig, ["--recipe" if a == "--config" else a for a in argv])):
        sys.exit(1)


def app(argv):
    """open a page that draws from a model, with the nearest training image beside each sample"""
    from dermgen.app import AppConfig, app

    app(parse(AppConfig, argv))


COMMANDS = {
    f.__name__: f
    for f in (phantom, prepare, tiny, generate, evaluate, audit, filter, study, report, publish, inspect, doctor, app)
}


def main() -> None:
    """The console command."""
    lines = [f"  {name:<10} {function.__doc__}" for name, function in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="dermgen",
        description="Generative models of skin-lesion images: data, training, generation, evaluation.",
        epilog="\n".join(["commands:", *lines, "", "`dermgen <command> --help` lists the options of a command."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dermgen {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="command", help="one of the commands below")
    args = parser.parse_args(sys.argv[1:2])
    sys.argv = [f"dermgen {args.command}", *sys.argv[2:]]
    with user_errors():
        COMMANDS[args.command](sys.argv[1:])


if __name__ == "__main__":
    main()
