"""How the toolkit is distributed: its version, its extras, and how its commands are called."""

from __future__ import annotations

from pathlib import Path

VERSION = "1.0.0"
# Else it was installed by pip, and its scripts lie where nobody looks for them.
_IS_CHECKOUT = (Path(__file__).parents[1] / "pyproject.toml").exists()


def install_extra(extra: str) -> str:
    """The command that installs an optional part, an extra of pyproject.toml such as `lora`."""
    if _IS_CHECKOUT:
        return f"pip install -e '.[{extra}]' -c constraints.txt"
    return f"pip install 'smallgpt[{extra}]'"


def code_digest() -> str:
    """A digest of the package's source files, which tells two states of one version apart."""
    import hashlib

    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def script_call(script: str) -> list[str]:
    """The words that call a script such as `train_gpt.py`."""
    if _IS_CHECKOUT:
        return ["python", script]
    return ["python", "-m", Path(script).stem]
