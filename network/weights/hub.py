"""The Hugging Face hub: ``hf://USER/REPO[@REVISION][/FILE]`` names a file there; ``push`` uploads one.

Files are fetched by huggingface_hub into its cache, from which they are taken without a connection. HF_ENDPOINT names
another server, HF_TOKEN or ``hf auth login`` the user, HF_HUB_OFFLINE=1 forbids connections.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

PREFIX = "hf://"
WEIGHTS = ("best.pth", "model.safetensors")  # taken if no file is named, the first that the repository holds
REPO = r"[\w.-]+/[\w.-]+"


class Address(NamedTuple):
    """A file on the hub; ``file`` None: the weights, ``revision`` None: the newest."""

    repo: str
    file: str | None
    revision: str | None


def local_file(name: str) -> str:
    """The path of a file: an ``hf://`` name is fetched, any other is returned as it is. Raises: as ``download``."""
    return str(download(name)) if name.startswith(PREFIX) else name


def parse_address(name: str) -> Address:
    """Raises ValueError for another form than ``hf://USER/REPO[@REVISION][/FILE]``."""
    match = re.fullmatch(rf"{PREFIX}({REPO})(?:@([^/@]+))?(?:/([^@]+))?", name)
    if not match:
        raise ValueError(f"{name}: expected hf://USER/REPO, hf://USER/REPO/FILE or hf://USER/REPO@REVISION/FILE")
    repo, revision, file = match.groups()
    return Address(repo, file, revision)


def download(name: str) -> Path:
    """The path in the cache of a file on the hub; fetched if it is not there or has changed.

    Raises:
        ValueError: not an address, or huggingface_hub is not installed.
        FileNotFoundError: the repository does not hold the file.
        OSError: no such repository or revision, no permission, or no connection and not in the cache.
    """
    repo, file, revision = parse_address(name)
    hub = library()
    names, offline = [file] if file else WEIGHTS, None
    with explained(name, hub):
        for one in names:
            try:
                return Path(hub.hf_hub_download(repo, one, revision=revision, local_files_only=bool(offline)))
            except hub.errors.LocalEntryNotFoundError as error:
                offline = offline or error
            except hub.errors.EntryNotFoundError:
                pass
    if offline:
        raise OSError(f"{name} is not in the cache, and {hub.constants.ENDPOINT} {unreachable(offline)}")
    raise FileNotFoundError(f"{name}: the repository has no {' or '.join(names)}: name one of its files")


def push(files: Mapping[str, Path | bytes], repo: str, private: bool = False, token: str | None = None) -> str:
    """Upload files, by their names there, in one commit; makes the repository if there is none. Returns its address.

    Raises:
        ValueError: not USER/REPO, or huggingface_hub is not installed.
        OSError: no permission or no connection; nothing is committed then.
    """
    if not re.fullmatch(REPO, repo):
        raise ValueError(f"expected USER/REPO, not {repo!r}")
    hub = library()
    with explained(repo, hub):
        api = hub.HfApi(token=token)
        api.create_repo(repo, private=private, exist_ok=True)
        added = [hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in files.items()]
        api.create_commit(repo, added, commit_message=f"Upload {', '.join(files)}")
    return f"{hub.constants.ENDPOINT}/{repo}"


def library() -> ModuleType:
    """huggingface_hub. Raises ValueError if it is not installed."""
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ModuleNotFoundError:
        raise ValueError(f"{PREFIX} needs huggingface_hub: pip install segdistill[hub]") from None
    return huggingface_hub


@contextmanager
def explained(name: str, hub: ModuleType) -> Iterator[None]:
    """Raise errors of the hub as OSErrors of one line; a missing file passes."""
    login = "log in: hf auth login, or HF_TOKEN"
    try:
        yield
    except hub.errors.EntryNotFoundError:
        raise
    except hub.errors.RevisionNotFoundError as error:
        raise OSError(f"{name}: the repository has no such revision") from error
    except hub.errors.GatedRepoError as error:
        raise OSError(f"{name}: its owner asks for an agreement, on its page ({login})") from error
    except hub.errors.RepositoryNotFoundError as error:
        raise OSError(f"{name}: no such repository, or not for this user ({login})") from error
    except hub.errors.HfHubHTTPError as error:
        status = error.response.status_code
        reason = error.server_message or error.response.reason_phrase
        remedy = f" ({login})" if status in (401, 403) else ""
        raise OSError(f"{name}: {hub.constants.ENDPOINT} says {status} {first_line(reason)}{remedy}") from error
    # What the hub's HTTP library raises without a connection derives from its HTTPError; RuntimeError: of an upload.
    except (hub.errors.HTTPError, hub.errors.OfflineModeIsEnabled, RuntimeError) as error:
        raise OSError(f"{name}: {hub.constants.ENDPOINT} {unreachable(error)}") from error


def unreachable(error: Exception) -> str:
    cause = error.__cause__ or error
    return f"cannot be reached ({first_line(str(cause)) or type(cause).__name__})"


def first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
