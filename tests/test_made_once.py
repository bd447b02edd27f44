"""A folder that tests share is filled by the first that asks for it, and by no other."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest


def test_a_folder_is_filled_once_however_many_ask_at_a_time(made_once):
    made = []

    def make(folder: Path) -> None:
        time.sleep(0.2)  # until the others wait
        made.append(folder)

    with ThreadPoolExecutor() as asking:
        folders = [asking.submit(made_once, "asked by many", make) for _ in range(3)]
    assert {folder.result() for folder in folders} == set(made) and len(made) == 1


def test_a_folder_that_could_not_be_filled_is_filled_by_the_next(made_once):
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        made_once("not made at first", fail)
    folder = made_once("not made at first", lambda folder: (folder / "whole").touch())
    assert [path.name for path in folder.iterdir()] == ["whole"]
