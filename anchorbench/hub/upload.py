"""The only module that uploads: a folder's files to the Hugging Face Hub."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from anchorbench import __version__


def require_repo(repo: str) -> None:
    """Raises ValueError with one sentence unless `repo` can be the name of a repository on the Hub."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise ValueError(
            f"{repo[:100]!r} cannot be pushed to the Hub: allowed: OWNER/NAME, of letters, digits, - _ and ."
        ) from None


def upload(folder: Path, names: Sequence[str], repo: str, kind: Literal["model", "dataset"]) -> str:
    """Uploads the files `names` of `folder` to the Hub as `repo` ("OWNER/NAME"), which is created if needed; returns its URL.

    The token is that of `hf auth login` or HF_TOKEN. Raises ValueError with one sentence if the name is none, the network is
    unavailable or the token lacks permission.
    """
    from huggingface_hub import HfApi

    require_repo(repo)

    try:
        api = HfApi(library_name="anchorbench", library_version=__version__)
        address = api.create_repo(repo, repo_type=kind, exist_ok=True)
        api.upload_folder(repo_id=repo, repo_type=kind, folder_path=folder, allow_patterns=list(names))
    except Exception as error:  # network, token or name: each underlying library raises its own types
        what = " ".join(str(error).split())
        raise ValueError(f"{repo!r} cannot be pushed to the Hub: {what or type(error).__name__}") from None
    return str(address)
