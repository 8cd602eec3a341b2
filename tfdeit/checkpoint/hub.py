"""Published checkpoints by name: from the Hugging Face hub, or from their publishers' servers."""

import contextlib
import functools
import importlib.resources
import json
import os
import re
from pathlib import Path

from tfdeit import zoo
from tfdeit.checkpoint import CheckpointError, listing
from tfdeit.checkpoint.download import download
from tfdeit.presentation.hints import did_you_mean

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in order of preference; either may be sharded
_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".npz", ".h5", ".keras", ".json", ".index")


def locate(source: str | os.PathLike) -> Path:
    """Returns the file or directory that `source` names: a path; an embedded checkpoint; or one that `fetch` downloads.

    Raises:
        CheckpointError: if there is none, or it cannot be downloaded.
    """
    if Path(source).exists():
        return Path(source)
    folder = Path(str(importlib.resources.files("tfdeit.weights")))
    embedded = {path.parent.name: path.parent for path in folder.glob("*/config.json")}
    if str(source) in embedded:
        return embedded[str(source)]
    _refuse_missing_path(str(source))
    try:
        return fetch(str(source))
    except CheckpointError:
        raise
    except ValueError as error:
        hint = did_you_mean(str(source), [*embedded, *zoo.BY_NAME], limit=3) or " `tfdeit list` shows the zoo."
        raise CheckpointError(
            "Expected the directory of a checkpoint (config.json with model.safetensors or pytorch_model.bin, "
            f"preprocessor_config.json), the name of an embedded one ({listing(embedded) or 'there are none'}), "
            f"a name of the zoo, or the id of a repository on the hub. Received: {str(source)!r}.{hint}"
        ) from error


def _refuse_missing_path(source: str):
    """Refuses what could be the id of a repository but looks like a path: to ask the hub for it would waste time."""
    if source in zoo.BY_NAME or not HUB_ID.fullmatch(source):
        return
    folder = source.partition("/")[0]
    if Path(folder).is_dir():
        reason = f"{folder} is a directory here; to download from the hub, work in another directory"
    elif source.endswith(_SUFFIXES):
        reason = "it ends like a file name, and the hub has repositories"
    else:
        return
    raise CheckpointError(f"Expected a file or directory that exists. Received: {source!r}, which does not: {reason}.")


def fetch(name: str) -> Path:
    """Downloads a checkpoint, unless it is in the cache.

    Args:
        name: a name of the zoo (`zoo.find`), or the id of any repository on the hub. A row's `url` or file name stands
            for its publisher's file, its other names for its repository on the hub, if there is one.

    Returns:
        The directory with config.json, weights and, if published, preprocessor_config.json; or the publisher's file.

    Raises:
        CheckpointError: if it cannot be downloaded; the message says what to put where by hand.
        ValueError: if there is no such name.
    """
    try:
        row = zoo.find(name)
    except ValueError:
        if HUB_ID.fullmatch(name):
            return _fetch_repository(name)
        raise
    if row.hub_id and name not in row.file_names:
        return _fetch_repository(row.hub_id)
    url, _ = row.file_names
    return download(url, row.sha256)


def _fetch_repository(hub_id: str) -> Path:
    try:
        from huggingface_hub import errors
    except ImportError as error:
        raise CheckpointError(
            f"Expected a directory, or huggingface_hub to download {hub_id!r}. Received: neither. Run pip "
            f"install tfdeit[hub], or put {_files(hub_id)} into a directory, and pass that."
        ) from error
    library: tuple = errors.HfHubHTTPError.__bases__  # of the HTTP library that it uses
    endpoint = os.environ.get("HF_ENDPOINT")  # huggingface_hub itself reads it once, when it is imported
    try:
        _check_answer(hub_id, endpoint)
        return _fetch_files(hub_id, endpoint)
    except CheckpointError:
        raise
    except (OSError, errors.EntryNotFoundError, *library) as error:
        raise CheckpointError(_describe_failure(hub_id, error)) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # a malformed id or index of shards
        raise CheckpointError(f"Expected a well-formed repository {hub_id!r} on the hub. Received: {error}.") from error


def _describe_failure(hub_id: str, error: Exception) -> str:
    from huggingface_hub import errors

    match error:
        case errors.GatedRepoError():
            advice = "Request access on its page, and set HF_TOKEN"
            return f"Expected to read {hub_id} on the hub. Received: a gated repository. {advice}."
        case errors.RepositoryNotFoundError():
            return (
                f"Expected a directory, a name of the zoo (`tfdeit list`), or a repository on the hub. Received: "
                f"{hub_id!r}, which is none of these, or is private and needs a token (HF_TOKEN)."
                f"{did_you_mean(hub_id, zoo.BY_NAME)}"
            )
        case errors.LocalEntryNotFoundError():  # offline, by choice or not
            return (
                f"Expected a directory, {hub_id!r} in the hub's cache, or a network. Received: "
                f"{error.__cause__ or error} Without a network, put {_files(hub_id)} into a directory, and pass that."
            )
        case errors.EntryNotFoundError():
            return f"Expected config.json and {' or '.join(WEIGHTS)} in {hub_id} on the hub. Received: {error}"
    return f"Expected to download {hub_id}. Received: {error}. Run again to resume; HF_HOME says where it is stored."


def _check_answer(hub_id: str, endpoint: str | None):
    """Asks the hub once for a repository that is not cached: huggingface_hub would keep trying for 24 s."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    if constants.HF_HUB_OFFLINE or isinstance(try_to_load_from_cache(hub_id, "config.json"), str):
        return
    library: tuple = HfHubHTTPError.__bases__
    url = hf_hub_url(hub_id, "config.json", endpoint=endpoint)
    try:
        with contextlib.suppress(HfHubHTTPError):  # a refusal is an answer too
            get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except (OSError, *library) as error:
        raise CheckpointError(
            f"Expected a file or directory that exists, or the id of a repository on the hub. Received: {hub_id!r}: "
            f"there is no such path, and the hub does not answer ({error}).{did_you_mean(hub_id, zoo.BY_NAME)} "
            f"Without a network, put {_files(hub_id)} into a directory, and pass that."
        ) from error


def _fetch_files(hub_id: str, endpoint: str | None) -> Path:
    """Downloads only the files that are read, all of one commit; raises what huggingface_hub does."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    folder = Path(hf_hub_download(hub_id, "config.json", endpoint=endpoint)).parent  # named after the commit
    get = functools.partial(hf_hub_download, hub_id, revision=folder.name, endpoint=endpoint)
    candidates = [file for name in WEIGHTS for file in (name, f"{name}.index.json")]
    look_up = functools.partial(try_to_load_from_cache, hub_id, revision=folder.name)
    cached = [file for file in candidates if isinstance(look_up(file), str)]
    for file in cached or candidates:
        try:
            path = Path(get(file))
            break
        except LocalEntryNotFoundError:  # no network: the next would not be found either
            raise
        except EntryNotFoundError as error:
            missing = error
    else:
        raise missing
    if path.suffix == ".json":
        for shard in sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())):
            get(shard)
    if look_up("preprocessor_config.json") is None:  # neither cached nor known to be missing
        with contextlib.suppress(EntryNotFoundError):
            get("preprocessor_config.json")
    return folder


def _files(hub_id: str) -> str:
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return f"config.json, preprocessor_config.json and {WEIGHTS[0]} of {endpoint}/{hub_id}/tree/main"
