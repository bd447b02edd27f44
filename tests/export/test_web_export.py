"""export_model.py --format web: its folder, what it fetches, how drawings stand in it, mistakes."""

import base64
import functools
import hashlib
import io
import json
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from trained_models import BEST_MODEL

from smallgpt.engines.trained import load_trained_model
from smallgpt.errors import UserError
from smallgpt.export.drawing import drawing_of
from smallgpt.export.npm_packages import NpmPackage, cache_folder
from smallgpt.tokens.codebook import Codebook

pytestmark = pytest.mark.usefixtures("runtime")


# ------------------------------------------------------------------------------- the folder


@pytest.mark.parametrize("kind", ["bars", "head", "no labels", "texts"])
def test_the_folder_has_all_that_the_page_loads_and_tells_nothing_of_the_machine(
    kind, exported, model_of
):
    folder = exported(kind, "web")
    facts = json.loads((folder / "model" / "page.json").read_text())
    for name, size in facts["files"].items():
        assert (folder / name).stat().st_size == size
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert ("model/classify.onnx" in names) == (kind != "no labels")
    assert ("model/decode.onnx" in names) == (kind != "head")
    assert ("runtime/tokenizers.js" in names) == (kind == "texts")
    assert ("model/codebook.bin" in names) == (kind == "bars")
    assert all(f"runtime/{each}" in names for each in ("ort.js", "LICENCE-onnxruntime.txt"))
    for name in names - {"README.md", "export_report.json"}:
        assert str(model_of(kind).parents[1]).encode() not in (folder / name).read_bytes()
    page = (folder / "index.html").read_text()
    assert "http://" not in page and "https://" not in page


def test_graphs_are_those_of_onnx_int8_and_the_report_says_what_read_them(exported):
    for name in ("classify.onnx", "decode.onnx"):
        graphs = [
            (exported("bars", "web") / "model" / name).read_bytes(),
            (exported("bars", "onnx-int8") / name).read_bytes(),
        ]
        assert graphs[0] == graphs[1]
    report = json.loads((exported("bars", "web") / "export_report.json").read_text())
    assert report["checked"] and report["read_by"].endswith("not in a browser")
    assert report["labels"]["agreement"] > 0.9


@pytest.mark.parametrize("format", ["web", "gguf"])
def test_an_export_for_other_programs_is_called_one(format, exported):
    if format == "gguf":
        pytest.importorskip("gguf", reason="gguf is not installed: the extra `gguf`")
    with pytest.raises(UserError, match="is an export for other programs: name the folder of its"):
        load_trained_model(exported("bars", format))


def test_the_command_says_how_to_see_the_page(run, model_of, tmp_path):
    out = tmp_path / "a page"
    words = ["--model_path", model_of("bars"), "--format", "web", "--output_dir", out]
    done = run(*words, "--least_agreement", "0.5")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == f"to see it: python -m http.server -d '{out}'"
    assert "python -m http.server" in (out / "README.md").read_text()
    assert run(*words, "--least_agreement", "0.5").returncode == 0  # replaces itself
    assert run("--model_path", model_of("no labels"), "--format", "web",
               "--output_dir", out).returncode == 1  # fmt: skip


def test_a_readme_tells_of_labels_only_where_there_are_any(exported):
    assert "of each label" in (exported("bars", "web") / "README.md").read_text()
    assert "of each label" not in (exported("no labels", "web") / "README.md").read_text()


# ------------------------------------------------------------------------------- drawings


def test_where_the_subject_stands_is_measured_on_the_validation_images(bars):
    trained = load_trained_model(bars / BEST_MODEL, "cpu", "fp32")
    facts = drawing_of(trained, Codebook.load(trained.codebook))
    assert facts["box"] is None  # noise up to the border: no plain background


@pytest.mark.parametrize("paper, ink", [(0, 255), (255, 0)])
def test_digits_that_fill_twenty_of_28_pixels_say_so(paper, ink, monkeypatch, bars):
    images = np.full((30, 28, 28, 1), paper, np.float32)
    images[:, 4:24, 12:15] = ink  # a stroke of 3 pixels
    monkeypatch.setattr("smallgpt.export.drawing._validation_images", lambda *_: images)
    trained = load_trained_model(bars / BEST_MODEL, "cpu", "fp32")
    codebook = Codebook(np.zeros((1, 1), np.float32), 1, 28, 28, 1, 0.0, 255.0, 255.0)
    facts = drawing_of(trained, codebook)
    assert facts["paper"] == [paper] * 3
    assert facts["box"] == pytest.approx({"fill": 20 / 28, "x": 13.5 / 28, "y": 0.5}, abs=1e-3)
    assert facts["brush"] == pytest.approx(3 / 28, rel=0.35)


# ------------------------------------------------------------------------------- packages


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A small registry with the package toy 1.0.0, which is returned; the cache is empty."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        member = tarfile.TarInfo("package/dist/toy.js")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"toy\n"))
    folder = tmp_path / "registry" / "@its" / "toy" / "-"
    folder.mkdir(parents=True)
    (folder / "toy-1.0.0.tgz").write_bytes(made.getvalue())
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path / "registry")
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sha512 = base64.b64encode(hashlib.sha512(made.getvalue()).digest()).decode()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{server.server_port}/")
        yield NpmPackage("@its/toy", "1.0.0", sha512)
        server.shutdown()


def test_a_package_is_fetched_once_and_kept(registry, tmp_path, monkeypatch, capsys):
    registry.copy({"package/dist/toy.js": tmp_path / "toy.js"})
    assert (tmp_path / "toy.js").read_text() == "toy\n"
    assert "fetching http://127.0.0.1" in capsys.readouterr().err
    assert [path.name for path in cache_folder().iterdir()] == ["its-toy-1.0.0.tgz"]
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    assert registry.fetch() == cache_folder() / "its-toy-1.0.0.tgz"
    assert capsys.readouterr().err == ""


def test_a_damaged_copy_is_fetched_again(registry, capsys):
    path = registry.fetch()
    path.write_bytes(path.read_bytes()[:-1])
    assert registry.fetch() == path
    assert "damaged: it is fetched again" in capsys.readouterr().err


def test_a_file_of_another_hash_is_not_used(registry):
    with pytest.raises(UserError, match="its sha512 differs"):
        NpmPackage("@its/toy", "1.0.0", "other").fetch()
    assert not cache_folder().exists()


def test_without_a_network_a_line_says_which_file_belongs_where(registry, monkeypatch):
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    with pytest.raises(UserError) as told:
        registry.fetch()
    words = str(told.value)
    assert "npm pack @its/toy@1.0.0" in words and "\n" not in words
    assert f"put its-toy-1.0.0.tgz into {cache_folder()}" in words


def test_the_registry_is_the_one_that_npm_uses(registry, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("npm_config_registry")
    assert registry.address() == "https://registry.npmjs.org/@its/toy/-/toy-1.0.0.tgz"
    (tmp_path / ".npmrc").write_text("fund=false\nregistry = https://mirror.example/npm/\n")
    assert registry.address() == "https://mirror.example/npm/@its/toy/-/toy-1.0.0.tgz"
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "https://other.example")
    assert registry.address().startswith("https://other.example/@its/")
