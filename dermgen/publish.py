"""Uploading a finished run to the Hugging Face Hub."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from dermgen.config import InputError
from dermgen.methods.dreambooth import DreamboothConfig


def check_upload(config: DreamboothConfig) -> None:
    """Where the run is to be uploaded, make the (private) repository now: a missing right shows before the training.

    Raises:
        InputError: if it cannot be made.
    """
    if not config.push_to_hub:
        return
    name = _repo_id(config)
    try:
        HfApi(token=config.hub_token).create_repo(name, private=True, exist_ok=True)
    except (HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, OSError, ValueError) as error:
        raise InputError(
            f"cannot write to {name!r} on the Hub ({str(error).splitlines()[0]}): see `hf auth login`"
        ) from error


def upload(config: DreamboothConfig) -> None:
    """Upload the run folder without checkpoints, where the config asks for it; called by all, done by one process."""
    import os

    if not config.push_to_hub or os.environ.get("RANK", "0") != "0":
        return
    api = HfApi(token=config.hub_token)
    repo_id = api.create_repo(_repo_id(config), private=True, exist_ok=True).repo_id
    ignored = ["checkpoint-*", f"{config.logging_dir}/*", "*.partial"]
    api.upload_folder(
        repo_id=repo_id, folder_path=config.output_dir, commit_message="End of training", ignore_patterns=ignored
    )
    print(f"uploaded to {repo_id}")


def _repo_id(config: DreamboothConfig) -> str:
    return config.hub_model_id or Path(config.output_dir).name
