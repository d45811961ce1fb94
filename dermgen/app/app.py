"""`dermgen app`: serve a page on this machine until it is interrupted.

What can be wrong without a model is reported before torch and Gradio are imported, which takes seconds.
"""

import importlib.util
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dermgen.app import folders
from dermgen.config import InputError
from dermgen.settings.app import AppConfig

if TYPE_CHECKING:
    import gradio

HOST = "127.0.0.1"


def app(config: AppConfig) -> None:
    """Serve the page of the runs, or of the model, until it is interrupted.

    Raises:
        InputError: if Gradio is not installed, the port is taken, or there are no runs, or no model that generates.
    """
    if importlib.util.find_spec("gradio") is None:
        raise InputError("the app needs Gradio: pip install 'dermgen[app]'")
    _require_free(config.port)
    if config.runs:
        folders.require_jobs(config.runs)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    with private_folder() as place:
        page = _page(config, place)
        print(f"Open {launch(page, config.port)} (Ctrl-C ends it)", flush=True)
        page.block_thread()


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder for all that is generated and shown, real images too, which is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="dermgen-app-", ignore_cleanup_errors=True) as name:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(name, "shown"))  # where Gradio keeps what it shows
        yield Path(name)


def _page(config: AppConfig, place: Path) -> "gradio.Blocks":
    if config.runs:
        from dermgen.app import watching
        from dermgen.app.watched import Watched

        return watching.build(Watched(config.runs), place)
    from dermgen.app import generating
    from dermgen.app.studio import Studio

    return generating.build(Studio(config, place / "generated"))


def launch(page: "gradio.Blocks", port: int = 0) -> str:
    """Serve the page on this machine, and on no other; its address."""
    import gradio

    from dermgen.app.style import STYLE

    fonts = {
        "font": ["system-ui", "sans-serif"],
        "font_mono": ["monospace"],
    }  # the default ones are fetched from outside
    _, address, _ = page.launch(
        server_name=HOST,
        server_port=port or None,
        theme=gradio.themes.Default(**fonts),
        css=STYLE,
        prevent_thread_lock=True,
        share=False,
        ssr_mode=False,
        footer_links=[],
        quiet=True,
    )
    return address


def _require_free(port: int) -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Gradio does
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise InputError(f"port {port} cannot be used ({error.strerror}): choose another --port") from error
