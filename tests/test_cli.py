"""The command line starts fast and helps."""

import subprocess
import sys
import time

from dermgen.cli import COMMANDS


def fastest(code, tries=3):
    times = []
    for _ in range(tries):
        start = time.perf_counter()
        subprocess.run([sys.executable, *code], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return min(times)


def test_importing_dermgen_takes_under_a_third_of_a_second():
    bare = fastest(["-c", "pass"])
    assert fastest(["-c", "import dermgen"]) - bare < 0.3


def test_help_takes_under_a_second_and_lists_the_commands():
    assert fastest(["-m", "dermgen.cli", "--help"]) < 1
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
        assert command in ("inspect", "doctor", "app") or "--output_dir" in page, command


def test_publish_by_itself_says_that_there_are_two_kinds():
    result = subprocess.run([sys.executable, "-m", "dermgen.cli", "publish"], capture_output=True, text=True)
    assert result.returncode == 2
    assert "dermgen publish model" in result.stdout
    assert "dermgen publish dataset" in result.stdout
