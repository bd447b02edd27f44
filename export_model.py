"""Take a trained model out of the toolkit: to other programs, a page, or the Hugging Face hub.

    python export_model.py                                     # ONNX in fp32
    python export_model.py --format onnx-int8                  # a quarter of the size
    python export_model.py --format gguf                       # for llama.cpp
    python export_model.py --format web                        # a page that needs no server
    python export_model.py --test_data data/digits/test.jsonl  # checked on these rows
    python export_model.py --format hub --repo_id me/digits    # uploaded, private at first

Writes outputs/export/FORMAT: the files, a README.md with the lines that use them, and
export_report.json with what was checked. ONNX and GGUF files need an extra each (--help).
"""

from __future__ import annotations

import shlex
from pathlib import Path

from smallgpt.command import run_command
from smallgpt.console import printable_lines
from smallgpt.distribution import VERSION, install_extra
from smallgpt.model.place import check_model_folder
from smallgpt.options.export import HUB_FORMAT, ExportSettings
from smallgpt.options.reader import read_settings


def main(argv: list[str]) -> int:
    """The command; returns its exit code."""
    settings = read_settings(
        ExportSettings,
        argv,
        prog="export_model.py",
        description="Export a trained model, and check the export against it.",
        epilog=f"What ONNX files need beside the toolkit: {install_extra('onnx')}; GGUF files: "
        f"{install_extra('gguf')}",
    )
    check_model_folder(Path(settings.model_path))  # a wrong name need not wait for torch
    from smallgpt.engines.trained import refuse_export

    refuse_export(Path(settings.model_path), "name the model that it was made of (its README.md)")
    uploaded = settings.format == HUB_FORMAT and not settings.dry_run
    if uploaded:  # a wrong token need not wait for the export
        from smallgpt.files.hub_upload import check_upload, upload_folder

        check_upload(str(settings.repo_id), settings.public)
    from smallgpt.export.export import export_model

    export_model(settings)
    folder = Path(settings.resolved_output_dir())
    names = sorted(path.name for path in folder.iterdir())
    print(printable_lines(f"written to {folder}: {', '.join(names)}"))
    if settings.format == "web":
        place = shlex.quote(str(folder))
        print(printable_lines(f"to see it: python -m http.server -d {place}"))
    if uploaded:
        message = f"Exported by smallgpt {VERSION}"
        address = upload_folder(
            folder, str(settings.repo_id), settings.public, settings.overwrite, message
        )
        print(f"uploaded, {'public' if settings.public else 'private'}: {address}")
    return 0


if __name__ == "__main__":
    run_command(main)
