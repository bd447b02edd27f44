"""Records read by the `datasets` library: save_to_disk folders, Parquet, Hugging Face hub.

    if is_library_data(path):
        names, records = open_records(path)
        for record in records(["text", "label"]): ...    # dicts of these columns alone

On the hub `path` is `hub:OWNER/NAME` or `hub:OWNER/NAME/SPLIT`. The library is optional
(the extra `datasets`). Class labels, stored as numbers, are returned as names.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from smallgpt.console import progress_bar
from smallgpt.distribution import install_extra
from smallgpt.errors import UserError
from smallgpt.files.hub import hub_errors

HUB = "hub:"
# Files by which `load_from_disk` knows its folders: one data set, or several named splits.
_ONE, _SEVERAL = "state.json", "dataset_dict.json"


def is_library_data(path: Path) -> bool:
    """Whether a path is for the `datasets` library."""
    return str(path).startswith(HUB) or path.suffix.lower() == ".parquet" or path.is_dir()


def open_records(
    path: Path,
) -> tuple[list[str], Callable[[Sequence[str]], Iterator[dict[str, Any]]]]:
    """The names of all columns, and a function that yields records with some of them.

    Decoding other columns, such as pictures or sounds, would take long.

    Raises:
        UserError: missing or unreadable data, several splits and none named, no network, or no
            library.
    """
    if str(path).startswith(HUB):
        found = _from_hub(path)
    elif path.is_dir():
        found = _from_folder(path)
    else:
        found = _from_parquet(path)

    def records(columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        names = {
            column: feature
            for column, feature in found.features.items()
            if column in columns and type(feature).__name__ == "ClassLabel"
        }
        chosen = found.select_columns([name for name in found.column_names if name in columns])
        with progress_bar(f"reading {path.name}", len(chosen), "record") as bar:
            for record in _each(path, chosen):
                for column, feature in names.items():
                    # -1 stands for no label in data sets whose labels are kept secret.
                    number = record[column]
                    known = number is not None and number >= 0
                    record[column] = feature.int2str(number) if known else None
                yield record
                bar.update()

    return list(found.column_names), records


def _each(path: Path, records: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The records; an error of the library is reported with the path."""
    each = iter(records)
    while True:
        try:
            record = next(each)
        except StopIteration:
            return
        except Exception as error:  # of pyarrow, of the library, of a text that is not UTF-8
            raise _unreadable(path, error) from None
        yield record


def _library(path: Path) -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError(f"{path}: reading it needs: {install_extra('datasets')}") from None
    # Whether a repository's description has a head of data is nobody's concern here.
    logging.getLogger("huggingface_hub.repocard").setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    return datasets


def _from_hub(path: Path) -> Any:
    parts = str(path).removeprefix(HUB).split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise UserError(f"{path}: write hub:OWNER/NAME or hub:OWNER/NAME/SPLIT")
    name = "/".join(parts[:2])
    if Path(name).exists():
        raise UserError(f"{path}: {name} lies here as well and would be read instead: move it away")
    with hub_errors(name, "data set"):
        split = parts[2] if len(parts) > 2 else None
        # Older versions of the library ask on standard input whether a repository's script may run.
        found = _library(path).load_dataset(name, split=split, trust_remote_code=False)
    return _only_split(path, found)


def _from_folder(path: Path) -> Any:
    if not (path / _ONE).exists() and not (path / _SEVERAL).exists():
        raise UserError(
            f"{path}: a folder that `save_to_disk` did not write; name the files in it: {path}/..."
        )
    library = _library(path)
    try:
        return _only_split(path, library.load_from_disk(str(path)))
    except UserError:
        raise
    except Exception as error:  # of pyarrow, of json, of the library
        raise _unreadable(path, error) from None


def _from_parquet(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    library = _library(path)
    from pyarrow import parquet

    try:
        # Not Dataset.from_parquet, which copies the file into a cache in the home folder.
        return library.Dataset(library.table.InMemoryTable(parquet.read_table(path)))
    except Exception as error:  # of pyarrow, of the library
        raise _unreadable(path, error) from None


def _only_split(path: Path, found: Any) -> Any:
    if not isinstance(found, dict):
        return found
    if len(found) == 1:
        return next(iter(found.values()))
    example = next(iter(found), "")
    raise UserError(f"{path}: has the splits {', '.join(found)}: name one, {path}/{example}")


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UserError(f"{path}: the datasets library cannot read it ({reason})")
