"""Take a trained model out of the toolkit: ONNX files for other programs, a page for browsers.

    python export_model.py                                     # ONNX in fp32
    python export_model.py --format onnx-int8                  # a quarter of the size
    python export_model.py --format web                        # a page that needs no server
    python export_model.py --test_data data/digits/test.jsonl  # checked on these rows

Writes outputs/export/FORMAT: the files, a README.md with the lines that use them, and
export_report.json with what was checked. It needs an extra: pip install -e '.[onnx]'.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from smallgpt.command import run_command
from smallgpt.console import printable_lines
from smallgpt.distribution import install_extra
from smallgpt.model.place import check_model_folder
from smallgpt.options.export import ExportSettings
from smallgpt.options.reader import read_settings


def main(argv: list[str]) -> int:
    """The command; returns its exit code."""
    settings = read_settings(
        ExportSettings,
        argv,
        prog="export_model.py",
        description="Export a trained model, and check the export against it.",
        epilog=f"What it needs beside the toolkit: {install_extra('onnx')}",
    )
    check_model_folder(Path(settings.model_path))  # a wrong name need not wait for torch
    from smallgpt.engines.trained import refuse_export

    refuse_export(Path(settings.model_path), "name the model that it was made of (its README.md)")
    from smallgpt.export.export import export_model

    export_model(settings)
    names = sorted(path.name for path in Path(settings.resolved_output_dir()).iterdir())
    print(printable_lines(f"written to {settings.resolved_output_dir()}: {', '.join(names)}"))
    if settings.format == "web":
        folder = shlex.quote(settings.resolved_output_dir())
        print(printable_lines(f"to see it: python -m http.server -d {folder}"))
    return 0


if __name__ == "__main__":
    run_command(main)
