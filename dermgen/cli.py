"""`dermgen <command>`: each command parses its settings, then imports what does the work and calls it.

A mistake in the flags is reported before torch is imported, which takes seconds.
"""

import argparse
import os
import sys

from dermgen import __version__
from dermgen.config import parse
from dermgen.job import user_errors


def demo(argv):
    """see the whole way: fine-tune the built-in base model, generate, score, compare, report"""
    from dermgen.settings.demo import DemoConfig

    config = parse(DemoConfig, argv, recipes=False)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin would stall beside another busy process
    from dermgen.demo import demo

    demo(config, COMMANDS)


def phantom(argv):
    """draw phantom lesions of 7 classes, in the HAM10000 layout"""
    from dermgen.settings.phantom import PhantomConfig

    config = parse(PhantomConfig, argv)
    from dermgen.data.phantom import write_phantoms

    write_phantoms(config)


def prepare(argv):
    """read HAM10000, ISIC, a folder or a Hub data set; clean, split, write a manifest"""
    from dermgen.settings.prepare import PrepareConfig

    config = parse(PrepareConfig, argv)
    from dermgen.data.prepare import prepare

    prepare(config)


def tiny(argv):
    """train a small Stable Diffusion from scratch on a manifest"""
    from dermgen.settings.tiny import TinyConfig

    config = parse(TinyConfig, argv)
    from dermgen.tiny import train_tiny

    train_tiny(config)


def recipes(argv):
    """list the recipes that ship with dermgen; `show NAME`, `copy NAME [FILE]`"""
    from dermgen import recipes

    match argv:
        case []:
            print(recipes.table())
        case ["show", name]:
            print(recipes.text_of(name), end="")
        case ["copy", name, *file] if len(file) < 2:
            print(f"written: {recipes.copy(name, *file)}")
        case _:
            usage = "usage:\n  dermgen recipes\n  dermgen recipes show NAME\n  dermgen recipes copy NAME [FILE]"
            print(
                f"{usage}\nNAME is a recipe's, or an accelerate config's: cpu, single_gpu, multi_gpu, multi_node, fsdp"
            )
            sys.exit(0 if argv in (["--help"], ["-h"]) else 2)


def train(argv):
    """train a recipe, a file or one of `dermgen recipes`, by the method that it is for"""
    from dermgen.config import parse_known
    from dermgen.settings.launch import LaunchConfig

    # After a recipe, --help asks for the options of its method.
    help = [word for word in argv[1:] if word in ("-h", "--help") and not argv[0].startswith("-")]
    config, flags = parse_known(LaunchConfig, [word for word in argv if word not in help])
    from dermgen.launching import train

    train(config, [*flags, *help])


def generate(argv):
    """generate images from a run or a Hub model, with full provenance"""
    from dermgen.settings.generate import GenerateConfig

    config = parse(GenerateConfig, argv)
    from dermgen.generation.generate import generate

    generate(config)


def evaluate(argv):
    """score a synthetic set: FID, KID, precision, recall, … with intervals and real references"""
    from dermgen.settings.evaluate import EvaluateConfig

    config = parse(EvaluateConfig, argv)
    from dermgen.evaluate.evaluate import evaluate

    evaluate(config)


def audit(argv):
    """find synthetic images that copy a training image; exit status 2: too many, 3: cannot tell"""
    from dermgen.settings.evaluate import AuditConfig

    config = parse(AuditConfig, argv)
    from dermgen.evaluate.audit import audit

    result = audit(config)
    if not result.passed:
        sys.exit(3 if result.cannot_tell else 2)


def filter(argv):
    """score synthetic images, keep the best share, and report what that costs"""
    from dermgen.settings.evaluate import FilterConfig

    config = parse(FilterConfig, argv)
    from dermgen.filtering import filter_images

    filter_images(config)


def study(argv):
    """train classifiers with and without synthetic images and report which gains are real"""
    from dermgen.settings.study import StudyConfig

    config = parse(StudyConfig, argv)
    from dermgen.classify.study import study

    study(config)


def report(argv):
    """write one self-contained HTML page from the folders of all stages"""
    from dermgen.settings.report import ReportConfig

    config = parse(ReportConfig, argv)
    from dermgen.report import report

    report(config)


def publish(argv):
    """publish a model or data set to the Hub, with its card, after safety checks"""
    kinds = {"model": "a finished run: RUN --repo_id org/name", "dataset": "a set of images: DIR --repo_id org/name"}
    if not argv or argv[0] not in kinds:
        lines = "\n".join(f"  dermgen publish {kind:<8} {what}" for kind, what in kinds.items())
        print(f"usage:\n{lines}\n`dermgen publish model --help` and `dermgen publish dataset --help` list the options.")
        sys.exit(0 if argv[:1] in (["--help"], ["-h"]) else 2)
    from dermgen.settings.publish import PublishDatasetConfig, PublishModelConfig

    kind, *argv = argv
    sys.argv[0] = f"dermgen publish {kind}"
    if kind == "model":
        config = parse(PublishModelConfig, argv)
        from dermgen.publish.model import publish_model

        publish_model(config)
    else:
        config = parse(PublishDatasetConfig, argv)
        from dermgen.publish.dataset import publish_dataset

        publish_dataset(config)


def inspect(argv):
    """check whether images are marked as synthetic (metadata, watermark)"""
    from dermgen.settings.inspect import InspectConfig

    config = parse(InspectConfig, argv)
    from dermgen.inspection import inspect

    inspect(config)


def init(argv):
    """write a recipe for your data and machine, by five questions or flags, and check it"""
    from dermgen.settings.init import InitConfig

    config = parse(InitConfig, argv, recipes=False)
    from dermgen.init import init

    doctor(["--config", str(init(config))])


def doctor(argv):
    """check the installation and, with --config, a recipe; exits with 1 if a check fails"""
    from dermgen.settings.doctor import DoctorConfig

    config = parse(DoctorConfig, argv, recipes=False)
    config.training()  # a mistake in the recipe is reported at once
    try:
        from dermgen.doctor import doctor
    except ModuleNotFoundError as error:
        print(f"FIX   packages   {error.name} is not installed: install dermgen again, with its dependencies")
        sys.exit(1)
    if not doctor(config):
        sys.exit(1)


def app(argv):
    """show runs and sets in the browser, or generate with the nearest training image beside each sample"""
    from dermgen.settings.app import AppConfig

    config = parse(AppConfig, argv)
    from dermgen.app.app import app

    app(config)


COMMANDS = {
    f.__name__: f
    for f in (
        demo,
        phantom,
        prepare,
        tiny,
        recipes,
        train,
        init,
        generate,
        evaluate,
        audit,
        filter,
        study,
        report,
        publish,
        inspect,
        doctor,
        app,
    )
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
