"""The command line lists its commands and describes their options."""

import subprocess
import sys

from dermgen.cli import COMMANDS


def test_help_lists_the_commands():
    text = subprocess.run([sys.executable, "-m", "dermgen.cli", "--help"], capture_output=True, text=True).stdout
    assert all(name in text for name in COMMANDS)


def test_every_command_describes_its_options():
    """All in one process: each by itself spends seconds on importing torch."""
    commands = [*([c] for c in COMMANDS if c != "publish"), ["publish", "model"], ["publish", "dataset"]]
    code = """
import sys
from dermgen.cli import COMMANDS
for command in eval(sys.argv[1]):
    try:
        COMMANDS[command[0]]([*command[1:], "--help"])
    except SystemExit as end:
        print("=====", " ".join(command), end.code)
"""
    result = subprocess.run([sys.executable, "-c", code, repr(commands)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    pages = dict(zip((" ".join(c) for c in commands), result.stdout.split("=====")[:-1], strict=True))
    for command, page in pages.items():
        assert f"===== {command} 0" in result.stdout
        assert "--config RECIPE" in page, command
        assert "None" not in page, command
        assert "MISSING" not in page, command
        assert command in ("inspect", "doctor", "app") or "--output_dir" in page, command
    assert pages["evaluate"].count("(required)") == 3
    assert "(default: inception)" in pages["evaluate"]


def test_publish_by_itself_says_that_there_are_two_kinds():
    result = subprocess.run([sys.executable, "-m", "dermgen.cli", "publish"], capture_output=True, text=True)
    assert result.returncode == 2
    assert "dermgen publish model" in result.stdout
    assert "dermgen publish dataset" in result.stdout
