"""Runs on the Hugging Face Hub: into its cache to be loaded, and from their folder to be shared.

One is named hf:USER/NAME or hf:USER/NAME@REVISION: a branch, a tag or a commit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

from weakloc.errors import RunError
from weakloc.files import file_name_of, is_url, path_of, read_text, stored_entries, write_whole
from weakloc.model.weights import hub_cache_when_unreachable
from weakloc.training.run_folder import OWN_FILES

PREFIX = "hf:"
_STORES = "stores"  # the folder of what came out of object stores
CARD_NAME = "README.md"
# Whoever takes the line out of a card keeps it.
CARD_MARK = "<!-- weakloc push writes this card anew, unless this line is taken out -->"
_OUT_OF_REACH = "the hub is out of reach, and its cache has not all of this run"
_REASONS = {
    "GatedRepoError": "its owner has to let you in first",
    "IncompleteSnapshotError": _OUT_OF_REACH,
    "LocalEntryNotFoundError": _OUT_OF_REACH,
    "OfflineModeIsEnabled": "the hub is out of reach",
    "RepositoryNotFoundError": "the hub has no such run, or does not show it to you",
    "RevisionNotFoundError": "the hub has no such revision of this run",
}


def folder_of(run: str | Path) -> Path:
    """Where a run lies; the known files of one on the hub are in its cache then."""
    path = path_of(run)
    if is_url(name := path.as_posix()):
        return _brought(path)
    if not name.startswith(PREFIX):
        return path
    from huggingface_hub import snapshot_download

    repository, _, revision = name.removeprefix(PREFIX).partition("@")
    known = [*OWN_FILES]
    with _one_error(name):
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=known))


def _brought(run: Path) -> Path:
    """The known files of a run in an object store, beside the hub's cache, by their state."""
    from huggingface_hub import constants

    stored_entries.cache_clear()
    try:
        there = stored_entries(str(run))
        files = [run / name for name in OWN_FILES if name in there] or [run]
        state = hashlib.sha256(repr([file.stat() for file in files]).encode()).hexdigest()[:16]
        name = file_name_of(str(run)), f"{state}{run.suffix}"
        folder = Path(constants.HF_HOME, _STORES, *name)
        for file in files:
            if not (copy := folder / file.relative_to(run)).is_file():
                with write_whole(copy) as temporary:
                    temporary.write_bytes(file.read_bytes())
    except FileNotFoundError as error:
        raise RunError("there is no such run", location=str(run)) from error
    return folder


def name_of(folder: Path) -> str:
    """How a run is named: by its path or URL, or as hf:USER/NAME@COMMIT, out of the caches."""
    repository, snapshots, commit = ("", "", *folder.parts)[-3:]
    if repository == _STORES:
        return unquote(snapshots)
    if snapshots != "snapshots" or not repository.startswith("models--"):
        return str(folder)
    return f"{PREFIX}{repository.removeprefix('models--').replace('--', '/')}@{commit}"


def require_local(folder: Path) -> None:
    """RunError before anything is learned that would be kept in a cache."""
    if (name := name_of(folder)) != str(folder):
        reason = "what a run learns is kept in its folder, and this one is not yours alone"
        repository = name.removeprefix(PREFIX).partition("@")[0]
        copying = "" if is_url(name) else f": hf download {repository} --local-dir FOLDER"
        raise RunError(reason, location=name, remedy=f"Copy it{copying}")


def upload(folder: Path, repository: str, card: str, *, private: bool) -> tuple[str, bool]:
    """All files of a run and its card in one commit; its address, and whether it is private.

    What is there already is not sent again. Files of an earlier run that this one has not are taken
    away, others are left alone.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    with _one_error(PREFIX + repository):
        hub = HfApi(library_name="weakloc")
        url = hub.create_repo(repository, private=private or None, exist_ok=True)
        info = hub.model_info(repository)
        there = {file.rfilename for file in info.siblings or ()}
        files = [name for name in OWN_FILES if (folder / name).is_file()]
        changes: list[CommitOperationAdd | CommitOperationDelete] = [
            *(CommitOperationAdd(name, folder / name) for name in files),
            *(CommitOperationDelete(name) for name in OWN_FILES if name in there - {*files}),
        ]
        kept = CARD_NAME in there and read_text(Path(hub.hf_hub_download(repository, CARD_NAME)))
        if not kept or CARD_MARK in kept:
            changes.append(CommitOperationAdd(CARD_NAME, card.encode()))
        hub.create_commit(repository, changes, commit_message="Push a run of weakloc")
    return str(url), bool(info.private)


@contextmanager
def _one_error(name: str) -> Iterator[None]:
    """Where whatever the hub answers, or that it does not, becomes one line."""
    try:
        with hub_cache_when_unreachable():
            yield
    except Exception as error:  # whatever the client raises, or the system where the cache is
        kind = type(error).__name__
        reason = _REASONS.get(kind) or next(iter(str(error).splitlines()), kind).rstrip(". ")
        remedy = "Check name and connection; private runs and pushing need `hf auth login`"
        raise RunError(reason, location=name, remedy=remedy) from error
