"""Settings of `dermgen app`."""

from dataclasses import dataclass

from dermgen.config import check, option


@dataclass(frozen=True, kw_only=True)
class AppConfig:
    """Open a page that generates from a model, on this machine only."""

    model: str = option(None, "run folder, pipeline folder or Hub id", required=True)
    base_model: str | None = option(
        None, "base model of a LoRA file that does not record one, or its new place if it was moved"
    )
    variant: str | None = option(
        None, "variant of the weight files, e.g. fp16; default that of the LoRA run's base model"
    )
    real: str | None = option(
        None, "manifest of the training images, among which the nearest is found; default the run's own"
    )
    audit: str | None = option(None, "folder of `dermgen audit`, whose threshold marks copies")
    port: int = option(7860, "port of the page, http://127.0.0.1:PORT; 0 takes a free one", at_least=0)

    __post_init__ = check
