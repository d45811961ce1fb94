"""`dermgen app`: serve a page on this machine until it is interrupted.

What can be wrong without a model is reported before torch and Gradio are imported, which takes seconds.
"""

import importlib.util
import socket
from typing import TYPE_CHECKING

from dermgen.config import InputError
from dermgen.settings.app import AppConfig

if TYPE_CHECKING:
    import gradio

HOST = "127.0.0.1"
STYLE = ".banner {background: #7a1f1f; padding: 0.6em 1em; border-radius: 6px} .banner * {color: white}"


def app(config: AppConfig) -> None:
    """Serve the page until it is interrupted.

    Raises:
        InputError: if Gradio is not installed, the port is taken, or the model cannot be loaded.
    """
    if importlib.util.find_spec("gradio") is None:
        raise InputError("the app needs Gradio: pip install 'dermgen[app]'")
    _require_free(config.port)
    from dermgen.app.generating import build
    from dermgen.app.studio import Studio

    studio = Studio(config)
    try:
        page = build(studio)
        print(f"Open {launch(page, config.port)} (Ctrl-C ends it)", flush=True)
        page.block_thread()
    finally:
        studio.close()


def launch(page: "gradio.Blocks", port: int = 0) -> str:
    """Serve the page on this machine, and on no other; its address."""
    import gradio

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
