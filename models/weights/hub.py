"""Folders of weights on the Hugging Face hub, through its own package, huggingface_hub, with its cache and token."""
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.dist import rank
from core.errors import CheckpointError, UsageError
from core.imports import first_line, optional
from core.names import printable, quoted

PREFIX = "hf:"
PART = "[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
NAME = re.compile(f"(?:{PREFIX})?({PART}/{PART})(?:@([A-Za-z0-9_./-]{{1,200}}))?")
# what could lead out of the hub's cache, whose folders are named by owner, name and revision, or is no name there
REFUSED = re.compile(r"\.\.|--|//|\.git(@|$)|@[/.-]|/$")
PATIENCE = 20  # seconds for an answer


def parts_of(name: str) -> tuple[str, str | None]:
    """"hf:owner/name@revision" -> (owner/name, revision or None); the prefix may be missing. UsageError for another."""
    found = NAME.fullmatch(name)
    if not found or REFUSED.search(name) or len(found[1]) > 96:
        raise UsageError(f"{quoted(name)} names nothing on the Hugging Face hub: give {PREFIX}owner/name, or "
                         f"{PREFIX}owner/name@revision")
    return found[1], found[2]


class Repository:
    """A repository of the hub that is read; or what the cache has of it, where the hub cannot be reached.

    name: as `parts_of` takes it. `cache` is the folder out of which links of its files do not lead. Raises
    CheckpointError, in one sentence, where the hub has no such repository.
    """

    def __init__(self, name: str):
        self.name, self.revision = parts_of(name)
        self.hub = package(f"{PREFIX}{self.name}")
        self.cache = Path(self.hub.constants.HF_HUB_CACHE)
        self.unreachable = ""  # or why it is so
        try:
            found = self.hub.HfApi().model_info(self.name, revision=self.revision, files_metadata=True,
                                                timeout=PATIENCE)
            self.sizes = {file.rfilename: file.size for file in found.siblings or ()}
        except failures(self.hub) as error:
            if status(error) not in (None, 429) and status(error) < 500:
                raise said(self.hub, self.name, error) from error
            self.unreachable = printable(first_line(error))
            if rank() == 0:
                print(f"note: {self.hub.constants.ENDPOINT} cannot be reached: what the cache {self.cache} has of "
                      f"{PREFIX}{self.name} is taken")

    def fetch(self, file: str, most: int) -> Path:
        """Download a file of at most `most` bytes, if the cache has it not -> the folder in which it lies there.

        Raises CheckpointError where the hub says that it is larger, or has none.
        """
        size = None if self.unreachable else self.sizes.get(file)
        if not self.unreachable and size is None:
            raise CheckpointError(f"{PREFIX}{self.name} on the hub has no {file}: it is nothing that "
                                  "python -m models.weights push wrote")
        if size is not None and size > most:
            raise CheckpointError(f"{PREFIX}{self.name}: {file} has {size} bytes on the hub, more than the {most} that "
                                  "it could need, and is not downloaded")
        try:
            path = self.hub.hf_hub_download(self.name, file, revision=self.revision,
                                            local_files_only=bool(self.unreachable))
        except failures(self.hub) as error:
            if not self.unreachable:
                raise said(self.hub, self.name, error) from error
            raise CheckpointError(
                f"{PREFIX}{self.name}: {self.hub.constants.ENDPOINT} cannot be reached ({self.unreachable}), and the "
                f"cache {self.cache} has no {file} of it: connect to the network, or copy the folder here from "
                "another machine, and give its path") from error
        return Path(path).parent


def push(name: str, folder: Path, files: Sequence[str], private: bool) -> str:
    """Upload files of a folder in one commit, with the user's token -> where that is to be seen.

    The repository is made if need be. Raises CheckpointError, in one sentence, where the hub refuses it.
    """
    repository, revision = parts_of(name)
    hub = package("push")
    if not hub.get_token():
        raise CheckpointError("there is no token of the Hugging Face hub: log in (hf auth login), or set HF_TOKEN")
    api = hub.HfApi()
    try:
        api.create_repo(repository, private=private or None, exist_ok=True)
        if private and not api.model_info(repository).private:
            raise CheckpointError(f"--private: {PREFIX}{repository} is there already, and everybody can read it: name "
                                  "another, or make it private on the hub")
        done = api.create_commit(
            repository, [hub.CommitOperationAdd(file, str(folder / file)) for file in files], revision=revision,
            commit_message=f"Weights of DualVar: {folder.name}")
    except failures(hub) as error:
        raise said(hub, repository, error) from error
    return str(done.commit_url)


def package(purpose: str) -> Any:
    """huggingface_hub, whose parts are imported when they are named. RunError where it is not installed."""
    hub = optional("huggingface_hub", purpose)
    for part in ("constants", "errors"):
        optional(f"huggingface_hub.{part}", purpose)
    return hub


def failures(hub: Any) -> tuple[type[Exception], ...]:
    """What the package raises where the network, the hub or the disk is the cause.

    The first is the base of the errors of its HTTP client, whichever that is.
    """
    return hub.errors.HfHubHTTPError.__bases__[0], OSError, RuntimeError, ValueError


def status(error: Exception) -> Any:
    """The hub's answer as a number, None where there was none."""
    return getattr(getattr(error, "response", None), "status_code", None)


def said(hub: Any, name: str, error: Exception) -> Exception:
    """One sentence about what the hub answered, or why it did not; what the system says of a file stays as it is."""
    code, where = status(error), f"{PREFIX}{name}: {hub.constants.ENDPOINT}"
    if code is None and isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return error
    if code == 404 and type(error).__name__ == "RevisionNotFoundError":
        return CheckpointError(f"{where} has no such revision of it")
    if code in (401, 404):
        return CheckpointError(f"{where} has no such repository, or does not show it to this user: check the name, or "
                               "log in (hf auth login)")
    if code == 403:
        return CheckpointError(f"{where} does not allow that with this user's token: ask the owner for access, or take "
                               "a token that may write (hf auth login)")
    text = printable(first_line(error))
    return CheckpointError(f"{where} {'cannot be reached' if code is None else f'answers {code}'} ({text}): try again")
