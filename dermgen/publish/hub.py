"""The Hugging Face Hub: whether a repository can be written, the upload, and every failure as one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, ModelCard, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import httpx, validate_repo_id

from dermgen import __version__
from dermgen.blocks import counted
from dermgen.config import InputError

NOT_CONTENT = frozenset({".gitattributes"})

RepoType = Literal["model", "dataset"]


@dataclass(frozen=True)
class Target:
    """A repository on the Hub."""

    repo_id: str
    repo_type: RepoType
    public: bool = False

    @property
    def url(self) -> str:
        return f"{constants.ENDPOINT}/{'datasets/' if self.repo_type == 'dataset' else ''}{self.repo_id}"


@dataclass(frozen=True, kw_only=True)
class Marker:
    """Marks every repository that dermgen wrote, so that no other one is ever overwritten.

    Attributes:
        dermgen: its version.
        model: name of the card of a model.
        images: number of them in a data set.
        sha256: of the weights, or over the images.
    """

    FILE = "dermgen.json"

    dermgen: str = __version__
    model: str | None = None
    images: int | None = None
    sha256: str


def named(repo_id: str, repo_type: RepoType, public: bool = False) -> Target:
    """The repository of that name, without contacting the Hub.

    Raises:
        InputError: if the name is not valid.
    """
    for prefix in ("models/", "datasets/", "spaces/"):
        if repo_id.startswith(prefix):
            raise InputError(
                f"--repo_id must be like org/name, got {repo_id!r}: leave {prefix} out, the command implies it"
            )
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"--repo_id must be like org/name, got {repo_id!r}: {error}") from error
    return Target(repo_id, repo_type, public)


def check(target: Target) -> Target:
    """Check that huggingface_hub's token may write there; returns the target with its full name. Creates nothing.

    Raises:
        InputError: without a token or network, for a name that is used for something else, or without the right to
            write.
    """
    api = HfApi()
    with sentences(target.repo_id):
        user = api.whoami()
        if "/" not in target.repo_id:
            target = Target(f"{user['name']}/{target.repo_id}", target.repo_type, target.public)
        _require_rights(user, target.repo_id)
        other = {"model": "dataset", "dataset": "model"}[target.repo_type]
        if api.repo_exists(target.repo_id, repo_type=other):
            raise InputError(
                f"{target.repo_id} is a {other} on the Hub: publish this {target.repo_type} by another name"
            )
        if not api.repo_exists(target.repo_id, repo_type=target.repo_type):
            return target
        info = api.repo_info(target.repo_id, repo_type=target.repo_type)
        files = {file.rfilename for file in info.siblings or []} - NOT_CONTENT
        if files and Marker.FILE not in files:
            raise InputError(
                f"{target.repo_id} is on the Hub already, with {counted(len(files), 'file')} that dermgen did not "
                "write: choose another --repo_id"
            )
        if not info.private and not target.public:
            raise InputError(
                f"{target.repo_id} is public on the Hub: confirm with --public, or choose another --repo_id"
            )
        api.auth_check(target.repo_id, repo_type=target.repo_type, write=True)
    return target


def _require_rights(user: dict, repo_id: str) -> None:
    """Check what the Hub reports about a token; the rights of a fine-grained one show only when it is used."""
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise InputError(_explain_status(403, repo_id))
    owners = {user["name"], *(org["name"] for org in user.get("orgs", []))}
    if repo_id.split("/")[0] not in owners:
        names = " or ".join(sorted(owners))
        raise InputError(f"{repo_id!r} does not belong to {names}, whose token this is: fix --repo_id")


def create(target: Target) -> None:
    """Create the repository, private; an existing one is unchanged. This proves that it can be written.

    Raises:
        InputError: if it cannot be created.
    """
    with sentences(target.repo_id):
        HfApi().create_repo(target.repo_id, repo_type=target.repo_type, private=True, exist_ok=True)


def upload(target: Target, folder: Path, message: str) -> str:
    """Make the content of the repository exactly that of `folder`; returns its URL.

    Files that an interrupted upload has sent are not sent again. The repository stays private until it is complete.

    Raises:
        InputError: if the Hub refuses the card or the upload; the message says how to resume.
    """
    create(target)
    api = HfApi()
    with sentences(
        target.repo_id, f"{target.repo_id} may hold part of it, privately; run the same command again to resume"
    ):
        _validate(folder / "README.md", target.repo_type)
        api.upload_folder(
            repo_id=target.repo_id,
            repo_type=target.repo_type,
            folder_path=folder,
            commit_message=message,
            delete_patterns="*",
        )
        if target.public:
            api.update_repo_settings(target.repo_id, repo_type=target.repo_type, private=False)
    return target.url


def _validate(card: Path, repo_type: RepoType) -> None:
    """Let the Hub check the card's metadata."""
    try:
        ModelCard.load(card, ignore_metadata_errors=False).validate(repo_type=repo_type)
    except ValueError as error:
        raise InputError(f"the Hub refuses the metadata of the card: {' '.join(str(error).split())[:300]}") from error


@contextmanager
def sentences(repo_id: str, then: str = "") -> Iterator[None]:
    """Turn failures of the Hub or the network in the block into an `InputError` that says what to do, and `then`."""
    try:
        yield
    except InputError:
        raise
    except (
        HfHubHTTPError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
        httpx.HTTPError,
        OSError,
        RuntimeError,
    ) as error:
        message = _explain(error, repo_id)
        if message is None:
            raise
        raise InputError(f"{message}{f'. {then}' if then else ''}") from error


def _explain(error: BaseException, repo_id: str) -> str | None:
    """A message about what went wrong; None if the error is unrelated to the Hub."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    for link in chain:
        if isinstance(link, OfflineModeIsEnabled):
            return f"cannot write to {repo_id!r} on the Hub, since HF_HUB_OFFLINE is set: unset it"
        if isinstance(link, LocalTokenNotFoundError):
            return f"cannot write to {repo_id!r} on the Hub without a token: `hf auth login`, or set HF_TOKEN"
        if isinstance(link, httpx.HTTPStatusError) and link.response is not None:
            message = _explain_status(link.response.status_code, repo_id)
            from_hub = getattr(link, "server_message", None)
            return f"{message} (the Hub says: {' '.join(from_hub.split())[:200]})" if from_hub else message
    for link in chain:
        if isinstance(link, (httpx.TransportError, ConnectionError, TimeoutError)):
            return f"the Hub cannot be reached ({type(link).__name__}): check the network and try again"
    return None


def _explain_status(status: int, repo_id: str) -> str:
    if status == 401:
        return f"the Hub does not accept the token for {repo_id!r}: `hf auth login`, or set HF_TOKEN again"
    if status == 403:
        return (
            f"the token may not write to {repo_id!r}: create one with write permission in the Hub's settings, then "
            "`hf auth login`"
        )
    if status == 404:
        return f"the Hub has no {repo_id!r} that this token may see: check --repo_id and the token's permissions"
    if status in (409, 412):
        return f"{repo_id!r} was changed by somebody else at the same time (the Hub answers {status}): try again"
    if status >= 500 or status == 429:
        return f"the Hub is unavailable or too busy (it answers {status}): try again later"
    return f"the Hub refuses the request (it answers {status})"
