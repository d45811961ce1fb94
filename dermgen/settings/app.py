"""Settings of `dermgen app`."""

from dataclasses import dataclass

from dermgen.config import InputError, check, option


@dataclass(frozen=True, kw_only=True)
class AppConfig:
    """Open a page that shows runs and sets, or with --model one that generates; on this machine only."""

    runs: list[str] | None = option(
        None,
        "folders of runs and sets, or parent folders of these, to show and follow",
        positional=True,
    )
    model: str | None = option(None, "run folder, pipeline folder or Hub id, to generate from")
    base_model: str | None = option(
        None, "base model of a LoRA file that does not record one, or its new folder if it was moved"
    )
    variant: str | None = option(
        None, "variant of the weight files, e.g. fp16; default that of the LoRA run's base model"
    )
    real: str | None = option(
        None,
        "manifest folder in which the nearest training image is found; default the one that the run was trained on",
    )
    audit: str | None = option(None, "result folder of `dermgen audit`, whose threshold marks copies")
    port: int = option(7860, "port of the page, http://127.0.0.1:PORT; 0 chooses a free port", at_least=0)

    def __post_init__(self):
        check(self)
        if bool(self.runs) == bool(self.model):
            raise InputError("give either RUNS, a folder of runs, or --model, a model to generate from")
        unused = [name for name in ("base_model", "variant", "real", "audit") if getattr(self, name) is not None]
        if self.runs and unused:
            raise InputError(f"--{unused[0]} is for --model, and has no effect on RUNS: leave it out")
