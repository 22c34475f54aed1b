"""The cache of the Hugging Face hub: a folder for each repository, with one for each revision in it
whose files are links.

    models--owner--name/blobs/…
    models--owner--name/snapshots/REVISION/config.json -> ../../blobs/…
"""

from pathlib import PurePath
from typing import TypeVar

P = TypeVar("P", bound=PurePath)


def name_of(folder: PurePath) -> str:
    """What people call the folder: in the cache the repository's name. Pure."""
    return folder.parents[1].name.split("--")[-1] if _is_revision(folder) else folder.name


def root_of(folder: P) -> P:
    """Where the folder's links may lead: into itself, in the cache into its repository. Pure."""
    return folder.parents[1] if _is_revision(folder) else folder


def _is_revision(folder: PurePath) -> bool:
    return folder.parent.name == "snapshots"
