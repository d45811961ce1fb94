"""The Hugging Face Hub: may a repository be written, the upload itself, and every failure as one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, ModelCard, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import httpx, validate_repo_id

from dermgen.config import InputError, write_json

# In every repository that dermgen has written: what it is, so that another one's is never overwritten.
MARKER = "dermgen.json"
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


def named(repo_id: str, repo_type: RepoType, public: bool = False) -> Target:
    """The repository of that name, without asking the Hub.

    Raises:
        InputError: if it cannot be a name.
    """
    for prefix in ("models/", "datasets/", "spaces/"):
        if repo_id.startswith(prefix):
            raise InputError(
                f"--repo_id must be like org/name, got {repo_id!r}: leave {prefix} out, the command tells the type"
            )
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"--repo_id must be like org/name, got {repo_id!r}: {error}") from error
    return Target(repo_id, repo_type, public)


def check(target: Target) -> Target:
    """Whether the token that huggingface_hub finds may write there; the name in full. Nothing is made.

    Raises:
        InputError: without a token or network, for a name that belongs to something else, or without the right to
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
        there = {file.rfilename for file in info.siblings or []} - NOT_CONTENT
        if there and MARKER not in there:
            raise InputError(
                f"{target.repo_id} is on the Hub already, with {len(there)} files that dermgen did not put there: "
                "choose another --repo_id"
            )
        if not info.private and not target.public:
            raise InputError(
                f"{target.repo_id} is public on the Hub: say so with --public, or choose another --repo_id"
            )
        api.auth_check(target.repo_id, repo_type=target.repo_type, write=True)
    return target


def _require_rights(user: dict, repo_id: str) -> None:
    """What the Hub tells of a token without anything being made; a fine-grained one shows its rights only by use."""
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise InputError(_told_status(403, repo_id))
    owners = {user["name"], *(org["name"] for org in user.get("orgs", []))}
    if repo_id.split("/")[0] not in owners:
        told = " or ".join(sorted(owners))
        raise InputError(f"{repo_id!r} does not belong to {told}, whose token this is: mend --repo_id")


def create(target: Target) -> None:
    """Make the repository, private; one that is there stays as it is. The proof that it may be written.

    Raises:
        InputError: if it cannot be made.
    """
    with sentences(target.repo_id):
        HfApi().create_repo(target.repo_id, repo_type=target.repo_type, private=True, exist_ok=True)


def upload(target: Target, folder: Path, message: str) -> str:
    """Make the repository hold exactly what `folder` holds; returns its address.

    What an interrupted upload has sent is not sent again. The repository stays private until all is there.

    Raises:
        InputError: if the Hub refuses the card or the upload; says how to go on.
    """
    create(target)
    api = HfApi()
    with sentences(
        target.repo_id, f"{target.repo_id} may hold a part of it, privately; the same command goes on with the rest"
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


def write_marker(folder: Path, facts: dict) -> None:
    """Say in the repository what it is and that dermgen wrote it."""
    write_json(folder / MARKER, facts)


@contextmanager
def sentences(repo_id: str, then: str = "") -> Iterator[None]:
    """Within the block a failure of the Hub or the network is an `InputError` that says what to do; `then` is added."""
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
        told = _told(error, repo_id)
        if told is None:
            raise
        raise InputError(f"{told}{f'. {then}' if then else ''}") from error


def _told(error: BaseException, repo_id: str) -> str | None:
    """What went wrong, in words; None for what is no matter of the Hub's."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    for link in chain:
        if isinstance(link, OfflineModeIsEnabled):
            return f"cannot write to {repo_id!r} on the Hub, since HF_HUB_OFFLINE is set: unset it"
        if isinstance(link, LocalTokenNotFoundError):
            return f"cannot write to {repo_id!r} on the Hub without a token: `hf auth login`, or set HF_TOKEN"
        if isinstance(link, httpx.HTTPStatusError) and link.response is not None:
            told = _told_status(link.response.status_code, repo_id)
            said = getattr(link, "server_message", None)
            return f"{told} (the Hub says: {' '.join(said.split())[:200]})" if said else told
    for link in chain:
        if isinstance(link, (httpx.TransportError, ConnectionError, TimeoutError)):
            return f"the Hub cannot be reached ({type(link).__name__}): look at the network and try again"
    return None


def _told_status(status: int, repo_id: str) -> str:
    if status == 401:
        return f"the Hub does not know the token that would write to {repo_id!r}: `hf auth login`, or set HF_TOKEN anew"
    if status == 403:
        return (
            f"the token may not write to {repo_id!r}: take one with write permission there, from the Hub's settings, "
            "with `hf auth login`"
        )
    if status == 404:
        return f"the Hub has no {repo_id!r} that this token may see: look at --repo_id and the token's permissions"
    if status in (409, 412):
        return f"{repo_id!r} was changed by somebody else at the same time (the Hub answers {status}): try again"
    if status >= 500 or status == 429:
        return f"the Hub is out of order or too busy (it answers {status}): try again later"
    return f"the Hub refuses (it answers {status})"
