"""Options: from defaults, a YAML file and flags to one checked settings object."""

import dataclasses
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smallgpt.errors import SettingsError
from smallgpt.exit_codes import EXIT_USAGE
from smallgpt.options.config_file import to_yaml
from smallgpt.options.inference import InferenceSettings
from smallgpt.options.option import AUTO, as_flags, option, options_of
from smallgpt.options.preparation import DigitsSettings, ImagesSettings, TokensSettings
from smallgpt.options.reader import check_settings, load_settings, read_settings
from smallgpt.options.training import DEFAULT_CONFIG, TrainSettings

ROOT = Path(__file__).parents[2]
SETTINGS_CLASSES = (
    TrainSettings,
    InferenceSettings,
    DigitsSettings,
    ImagesSettings,
    TokensSettings,
)


@dataclass(frozen=True)
class Options:
    """One option of each kind."""

    rows: int = option(4, "Rows, 100 % of them.", group="Numbers", minimum=1, maximum=100)
    rate: float = option(0.1, "A rate.", group="Numbers", above=0, below=1)
    offset: float = option(0.0, "Any number.", group="Numbers")
    limit: int | None = option(None, "None or a number.", group="Numbers", minimum=1)
    quiet: bool = option(False, "Say nothing.", group="Words")
    color: str = option("grey", "A colour.", group="Words", choices=("grey", "red"))
    path: str = option("here", "A path.", group="Words")
    name: str | None = option(None, "A name or none.", group="Words")
    inputs: tuple[str, ...] = option((), "Some paths.", group="Words")
    config: str | None = option(None, "A file.", group="This call", flag_only=True)
    again: bool = option(False, "Once more.", group="This call", flag_only=True)

    def contradictions(self) -> list[str]:
        if self.limit is not None and self.limit > self.rows:
            return [f"limit ({self.limit}) is above rows ({self.rows})"]
        return []


def read(*argv: str, config: Path | None = None, settings_class: type = Options):
    return read_settings(
        settings_class, argv, prog="prog.py", description="A test.", default_config=config
    )


def mistakes_of(*argv: str, config: Path | None = None, settings_class: type = Options):
    with pytest.raises(SettingsError) as caught:
        read(*argv, config=config, settings_class=settings_class)
    assert caught.value.exit_code == EXIT_USAGE
    return caught.value.mistakes


@pytest.fixture
def write_config(tmp_path):
    def write(text: str | bytes) -> Path:
        path = tmp_path / "config.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


# ---- values --------------------------------------------------------------------------


def test_without_file_and_flags_every_option_has_its_default(tmp_path):
    assert read() == Options()
    assert read(config=tmp_path / "absent.yaml") == Options()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("rows", "7", 7),
        ("rate", "5e-5", 5e-5),
        ("rate", "1.e-3", 1e-3),
        ("offset", "-1e-3", -1e-3),
        ("offset", "-2", -2.0),
        ("offset", "3", 3.0),
        ("limit", "none", None),
        ("limit", "null", None),
        ("limit", "3", 3),
        ("quiet", "true", True),
        ("quiet", "no", False),
        ("quiet", "off", False),
        ("color", "red", "red"),
        ("path", "数据/训练.jsonl", "数据/训练.jsonl"),
        ("path", "none", "none"),
        ("name", "none", None),
    ],
)
def test_value_means_the_same_as_flag_and_in_the_file(name, text, value, write_config):
    in_file = read(config=write_config(f"{name}: {text}\n"))
    as_two_words = read(f"--{name}", text)
    as_one_word = read(f"--{name}={text}")
    assert getattr(in_file, name) == value
    assert type(getattr(in_file, name)) is type(value)
    assert in_file == as_two_words == as_one_word


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("rows", "seven", "expected a whole number"),
        ("rows", "7.0", "expected a whole number"),
        ("rows", "1e2", "expected a whole number"),
        ("rows", "true", "expected a whole number"),
        ("rows", ".inf", "expected a whole number"),
        ("rows", "9" * 5000, ""),
        ("rows", "0", "out of range (at least 1, at most 100)"),
        ("rows", "101", "out of range (at least 1, at most 100)"),
        ("rate", "0", "out of range (above 0, below 1)"),
        ("rate", "1", "out of range (above 0, below 1)"),
        ("rate", "fast", "expected a number"),
        ("rate", "true", "expected a number"),
        ("limit", "0", "out of range (at least 1)"),
        ("quiet", "2", "expected true or false"),
        ("quiet", "perhaps", "expected true or false"),
        ("color", "gray", "'gray' is not one of grey, red; did you mean grey?"),
    ],
)
def test_wrong_value_is_told_with_its_place(name, text, expected, write_config):
    config = write_config(f"# first line\n{name}: {text}\n")
    (in_file,) = mistakes_of(config=config)
    (as_flag,) = mistakes_of(f"--{name}", text)
    assert in_file.startswith(f"{config}")
    assert as_flag.startswith(f"--{name}: ")
    assert expected in in_file
    assert expected in as_flag


@pytest.mark.parametrize("text", [".inf", "-.inf", ".nan"])
def test_yaml_infinity_is_no_number_of_ours(text, write_config):
    (mistake,) = mistakes_of(config=write_config(f"offset: {text}\n"))
    assert "expected a finite number" in mistake


@pytest.mark.parametrize("text", ["inf", "-inf", "nan", "1e999"])
def test_infinity_as_a_flag_is_refused(text):
    (mistake,) = mistakes_of("--offset", text)
    assert "expected a finite number" in mistake


@pytest.mark.parametrize("text", ["123", "2020-01-02", "[a, b]", "true"])
def test_file_value_that_yaml_does_not_read_as_text_asks_for_quotes(text, write_config):
    (mistake,) = mistakes_of(config=write_config(f"path: {text}\n"))
    assert "expected text" in mistake
    assert "put it in quotes" in mistake
    assert read(config=write_config(f"path: '{text}'\n")).path == text


@pytest.mark.parametrize("text", ["''", "null", ""])
def test_empty_path_is_refused(text, write_config):
    assert "expected text" in mistakes_of(config=write_config(f"path: {text}\n"))[0]


def test_list_option_takes_several_flag_values_a_yaml_list_or_one_text(write_config):
    assert read("--inputs", "a", "b", "--rows", "3").inputs == ("a", "b")
    assert read(config=write_config("inputs: [a, b]\n")).inputs == ("a", "b")
    assert read(config=write_config("inputs: a\n")).inputs == ("a",)
    assert "list of strings" in mistakes_of(config=write_config("inputs: [a, 1]\n"))[0]


# ---- flags ---------------------------------------------------------------------------


def test_bool_flag_alone_means_true_and_does_not_eat_the_next_flag():
    settings = read("--quiet", "--rows", "9", "--again")
    assert (settings.quiet, settings.rows, settings.again) == (True, 9, True)


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(
    lambda text: text.lower() not in ("none", "null")
)


@given(
    st.builds(
        Options,
        rows=st.integers(1, 100),
        rate=st.floats(0.01, 0.99),
        offset=st.floats(-1e9, 1e9),
        limit=st.none() | st.just(1),
        quiet=st.booleans(),
        color=st.sampled_from(["grey", "red"]),
        path=TEXT,
        name=st.none() | TEXT,
        inputs=st.lists(TEXT, max_size=3).map(tuple),
    )
)
@example(Options(offset=-1e-05, path="--rows", name="-h", inputs=("--path", "a b", "=")))
def test_settings_can_be_given_by_the_flags_that_they_tell(settings):
    words = as_flags(settings)
    assert read(*words) == settings
    assert read(*as_flags(settings, ["path"])) == dataclasses.replace(settings, path="here")
    assert len(as_flags(Options())) == 0


def test_the_later_of_two_equal_flags_counts():
    assert read("--rows", "9", "--rows", "8").rows == 8


@pytest.mark.parametrize("argv", [("--rows",), ("--rows", "--quiet"), ("--path",), ("--inputs",)])
def test_flag_without_its_value_is_told(argv):
    assert mistakes_of(*argv) == [f"{argv[0]} needs a value"]


def test_empty_flag_value_is_refused():
    assert "expected a whole number, got ''" in mistakes_of("--rows=")[0]
    assert "expected text, got ''" in mistakes_of("--path", "")[0]


@pytest.mark.parametrize(
    ("argv", "nearest"),
    [
        (("--row", "9"), "--rows"),
        (("--ro=9",), ""),
        (("--colour", "red"), "--color"),
        (("-rows", "9"), "--rows"),
        (("--zzz", "9"), "--zzz"),
    ],
)
def test_abbreviated_or_mistyped_flag_is_unknown_and_the_nearest_is_named(argv, nearest):
    mistake = mistakes_of(*argv)[0]
    assert mistake.startswith(f"unknown flag {argv[0].split('=')[0]}")
    assert nearest in mistake


@pytest.mark.parametrize(
    ("flag", "meant"),
    [
        ("--lr", "--learning_rate"),
        ("--bs", "--batch_size"),
        ("--wd", "--weight_decay"),
        ("--epochs", "--num_epochs"),
        ("--dry", None),
    ],
)
def test_initials_of_a_flag_are_understood_and_nothing_far_is_suggested(flag, meant):
    with pytest.raises(SettingsError) as caught:
        read_settings(TrainSettings, [flag, "1"], prog="prog.py", description="")
    hint = f"; did you mean {meant}?" if meant else ""
    assert caught.value.mistakes == [f"unknown flag {flag}{hint}"]


def test_a_flag_that_was_meant_is_not_missed_as_well():
    with pytest.raises(SettingsError) as caught:
        read_settings(TokensSettings, ["--inptu", "x"], prog="prog.py", description="")
    assert caught.value.mistakes == ["unknown flag --inptu; did you mean --input?"]


def test_word_without_a_flag_is_refused():
    assert mistakes_of("train", "--rows", "9") == [
        "'train' does not belong to a flag (see prog.py --help)"
    ]
    assert "'b'" in mistakes_of("--path", "a", "b")[0]


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_names_every_option_with_its_range_and_default(flag, capsys):
    with pytest.raises(SystemExit) as leaving:
        read(flag)
    assert leaving.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, declared in options_of(Options).items():
        assert f"--{name} " in text
        assert declared.help in text
    assert "[at least 1, at most 100; default 4]" in text
    assert "[grey|red; default grey]" in text


# ---- the file ------------------------------------------------------------------------


def test_flag_beats_file_and_file_beats_default(write_config):
    config = write_config("rows: 20\nrate: 0.2\n")
    settings = read("--rows", "30", config=config)
    assert (settings.rows, settings.rate, settings.offset) == (30, 0.2, 0.0)


def test_config_flag_names_another_file(write_config, tmp_path):
    other = tmp_path / "mine.yaml"
    other.write_text("rate: 0.5\n")
    settings = read("--config", str(other), config=write_config("rows: 20\n"))
    assert (settings.rows, settings.rate) == (4, 0.5)


def test_config_flag_naming_no_file_is_refused(write_config, tmp_path):
    absent = tmp_path / "absent.yaml"
    mistakes = mistakes_of("--config", str(absent), config=write_config("rows: 20\n"))
    assert mistakes == [f"--config {absent}: no such file"]


def test_unknown_key_is_told_with_line_and_nearest_name(write_config):
    config = write_config("rate: 0.2\n\nrowes: 3\n")
    assert mistakes_of(config=config) == [f"{config}:3: unknown option 'rowes'; did you mean rows?"]


def test_option_of_one_call_has_no_place_in_the_file(write_config):
    assert "unknown option 'again'" in mistakes_of(config=write_config("again: true\n"))[0]


def test_key_given_twice_is_refused_with_the_second_line(write_config):
    config = write_config("rows: 3\nrate: 0.2\nrows: 4\n")
    assert mistakes_of(config=config) == [f"{config}:3: 'rows' is given twice"]


@pytest.mark.parametrize(
    "text", ["rows: &a 3\nlimit: *a\n", "path: !!python/name:os.system x\n", "path: !thing x\n"]
)
def test_anchors_and_tags_are_refused(text, write_config):
    config = write_config(text)
    assert mistakes_of(config=config) == [
        f"{config}:1: anchors, aliases and tags are not used here"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "rows: [3\n",
        "rows: 3\n\trate: 1\n",
        "just some words\n",
        "- rows\n- rate\n",
        "rows: 3\n---\nrate: 0.2\n",
        "<<: {rows: 3}\n",
        "path: 2020-99-99\n",
        "path: \x00\n",
        "path: =\n",
        "? [a, b]\n: c\n",
        "rows: {[a]: b}\n",
        b"path: \xff\xfe\n",
        "rows: " + "[" * 1200,
    ],
    ids=range(13),
)
def test_malformed_file_is_one_mistake_naming_it(text, write_config):
    config = write_config(text)
    (mistake,) = mistakes_of(config=config)
    assert mistake.startswith(f"{config}:")


@pytest.mark.parametrize("text", ["", "# only a comment\n", b"\xef\xbb\xbfrows: 4\r\n"])
def test_empty_file_and_windows_file_are_fine(text, write_config):
    assert read(config=write_config(text)) == Options()


def test_all_mistakes_of_file_and_flags_are_told_at_once(write_config):
    config = write_config("rate: 2\nrowz: 3\ncolor: blue\nlimit: 50\n")
    mistakes = mistakes_of("--offset", "x", "--quit", "--path", config=config)
    assert len(mistakes) == 7
    for part in ("--offset: ", "--quit", "--path needs", ":1: rate", ":2: ", ":3: color", "limit"):
        assert sum(part in mistake for mistake in mistakes) == 1, part
    assert mistakes[-1] == "limit (50) is above rows (4)"


def test_contradiction_is_not_told_about_a_value_that_is_mistaken_itself():
    assert mistakes_of("--limit", "50", "--rows", "many") == [
        "--rows: expected a whole number, got 'many'"
    ]


# ---- settings made in Python ---------------------------------------------------------


def test_check_settings_accepts_settings_as_they_come():
    check_settings(Options())
    check_settings(Options(rows=100, rate=0.5, limit=3, inputs=("a",)))


def test_a_path_made_in_python_is_as_good_as_its_text():
    checked = check_settings(Options(path=Path("here"), name=Path("a/b"), inputs=(Path("c"), "d")))
    assert checked == Options(path="here", name="a/b", inputs=("c", "d"))


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 0},
        {"rows": True},
        {"rows": 2.5},
        {"rows": "5"},
        {"rate": "5e-5"},
        {"rate": float("nan")},
        {"quiet": "yes"},
        {"color": "blue"},
        {"path": None},
        {"path": b"here"},
        {"name": "none"},
        {"limit": 50},
    ],
)
def test_check_settings_refuses_what_the_program_could_not_use(changes):
    with pytest.raises(SettingsError) as caught:
        check_settings(Options(**changes))
    assert len(caught.value.mistakes) == 1
    assert next(iter(changes)) in caught.value.mistakes[0]


# ---- the tables in the options -------------------------------------------------------


@pytest.mark.parametrize("settings_class", SETTINGS_CLASSES)
def test_every_option_is_documented_and_its_default_is_valid(settings_class):
    for name, declared in options_of(settings_class).items():
        assert declared.help.endswith("."), name
        assert declared.group, name
    required = {"input": "x"} if settings_class is ImagesSettings else {}
    required = {"input": ("x",)} if settings_class is TokensSettings else required
    check_settings(settings_class(**required))


@pytest.mark.parametrize(
    ("settings_class", "names"),
    [
        (
            TrainSettings,
            "data_path vocab_path batch_size num_epochs learning_rate max_length device config "
            "val_data_path output_dir n_layer n_head n_embd n_positions dropout precision seed "
            "grad_accumulation_steps label_loss_weight early_stopping_patience best_metric "
            "on_bad_row unknown_token group_by resume overwrite check_data learning_curve",
        ),
        (
            InferenceSettings,
            "model_path vocab_path device mode test_data prompt json max_new_tokens greedy "
            "temperature top_k top_p num_return_sequences seed image batch_size output_dir",
        ),
    ],
)
def test_the_flags_users_know_stay(settings_class, names):
    assert set(names.split()) <= {field.name for field in dataclasses.fields(settings_class)}


def test_reference_model_and_default_paths_stay():
    settings = TrainSettings()
    assert (settings.max_length, settings.n_positions) == (1024, 1024)
    assert (settings.n_layer, settings.n_head, settings.n_embd) == (AUTO, AUTO, AUTO)
    # Attention dropout leaves the fast kernels: 2x to 4x the time on a CPU.
    assert settings.attention_dropout == 0.0
    assert settings.data_path == "data/digits/train.jsonl"
    assert settings.vocab_path == "data/digits/vocab.json"
    assert settings.output_dir == "outputs"
    assert InferenceSettings().model_path == ("outputs/best_model",)


def test_vocabulary_is_that_beside_the_rows_unless_another_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("data/digits", "shop", "bare"):
        Path(folder).mkdir(parents=True)
        Path(folder, "train.jsonl").touch()
    for folder in ("data/digits", "shop"):
        Path(folder, "vocab.json").touch()
    Path("all.yaml").write_text(to_yaml(TrainSettings()))  # as config.yaml
    Path("edited.yaml").write_text(
        "data_path: shop/train.jsonl\nvocab_path: data/digits/vocab.json"
    )
    Path("chosen.yaml").write_text("data_path: bare/train.jsonl\nvocab_path: bare/other.json")

    def found(*argv, config=None):
        return read(*argv, config=config, settings_class=TrainSettings).vocab_path

    digits = "data/digits/vocab.json"
    shop = "--data_path", "shop/train.jsonl"
    for config in (None, Path("all.yaml")):
        assert found(config=config) == digits
        assert found(*shop, config=config) == "shop/vocab.json"
        assert found("--data_path", "bare/train.jsonl", config=config) == digits
        assert found(*shop, "--vocab_path", digits, config=config) == digits
    edited, chosen = Path("edited.yaml"), Path("chosen.yaml")
    assert found(config=edited) == "shop/vocab.json"
    assert found("--resume", config=edited) == digits  # what the run has stored
    assert found(config=chosen) == found(*shop, config=chosen) == "bare/other.json"
    assert TrainSettings(data_path="shop/train.jsonl").vocab_path == "shop/vocab.json"
    assert TrainSettings(data_path=Path("shop/train.jsonl")).vocab_path == "shop/vocab.json"
    Path(digits).unlink()
    assert TrainSettings(data_path="bare/train.jsonl").vocab_path == "bare/vocab.json"
    monkeypatch.chdir("shop")
    assert TrainSettings(data_path="train.jsonl").vocab_path == "vocab.json"


def test_a_gpu_is_named_by_its_number():
    assert read("--device", "cuda:1", settings_class=TrainSettings).device == "cuda:1"
    for wrong in ("cuda:", "cuda:x", "cpu:1"):
        with pytest.raises(SettingsError, match="is not one of auto, cpu, cuda, cuda:N, mps"):
            read("--device", wrong, settings_class=TrainSettings)


def test_config_yaml_is_what_settings_py_prints():
    printed = subprocess.run(
        [sys.executable, "-m", "smallgpt.options.training"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    assert DEFAULT_CONFIG.read_bytes() == printed.stdout


def test_config_yaml_holds_the_defaults():
    assert read(config=DEFAULT_CONFIG, settings_class=TrainSettings) == TrainSettings()
    flag_only = {"config", "resume", "overwrite", "check_data", "learning_curve"}
    text = DEFAULT_CONFIG.read_text(encoding="utf-8")
    for field in dataclasses.fields(TrainSettings):
        assert (f"\n{field.name}: " in text) == (field.name not in flag_only), field.name


@pytest.mark.parametrize("settings_class", SETTINGS_CLASSES)
def test_seed_too_large_for_the_libraries_is_refused(settings_class):
    required = ["--input", "x"] if settings_class in (ImagesSettings, TokensSettings) else []
    read("--seed", str(2**32 - 1), *required, settings_class=settings_class)
    (mistake,) = mistakes_of("--seed", str(2**32), *required, settings_class=settings_class)
    assert "at most 4294967295" in mistake


@pytest.mark.parametrize(
    ("settings_class", "argv", "part"),
    [
        (TrainSettings, "--n_embd 100 --n_head 8", "try --n_embd 96"),
        (TrainSettings, "--max_length 2048", "max_length (2048) is above n_positions (1024)"),
        (TrainSettings, "--resume --overwrite", "give one of them"),
        (TrainSettings, "--data_path a --val_data_path a", "val_data_path is data_path"),
        (TrainSettings, "--device cpu --precision fp16", "fp16 needs a GPU"),
        (TrainSettings, "--compile on --precision fp16", "compile on has no effect"),
        (TrainSettings, "--classifier_hidden 8", "classifier_hidden needs --classifier head"),
        (TrainSettings, "--freeze_backbone --init_from x", "needs --classifier head"),
        (TrainSettings, "--classifier head --freeze_backbone", "name one with --init_from"),
        (TrainSettings, "--classifier head --init_from x --lora_rank 4", "lora_rank does not go"),
        (TrainSettings, "--classifier head --task lm", "task lm needs label_token"),
        (TrainSettings, "--classifier head --task instruct", "task instruct needs label_token"),
        (TrainSettings, "--classifier head --compile on", "compile on has no effect"),
        (TrainSettings, "--class_weights balanced --task lm", "balanced needs task classify"),
        (
            TrainSettings,
            "--classifier head --freeze_backbone --init_from x --optimizer muon",
            "leaves no block to optimizer muon",
        ),
        (InferenceSettings, "--mode evaluate", "--mode evaluate needs --test_data"),
        (InferenceSettings, "--mode classify", "classify needs --prompt TOKENS"),
        (InferenceSettings, "--mode classify --prompt A --test_data f", "different inputs"),
        (InferenceSettings, "--mode generate --test_data f", "--test_data does not go with"),
        (InferenceSettings, "--prompt A --test_data f", "--test_data and --prompt name"),
        (InferenceSettings, "--image x.png", "--image needs --mode generate"),
        (InferenceSettings, "--mode generate --greedy --label 7", "drop one"),
        (ImagesSettings, "", "--input PATH is needed"),
        (ImagesSettings, "--input a --test_input b --test_last 3", "give one of them"),
        (ImagesSettings, "--input a --test_labels b", "--test_labels needs --test_input"),
        (TokensSettings, "", "--input FILE... is needed"),
    ],
)
def test_contradiction_is_told(settings_class, argv, part):
    (mistake,) = mistakes_of(*argv.split(), settings_class=settings_class)
    assert part in mistake


@pytest.mark.parametrize(
    ("argv", "mode"),
    [
        ("", "interactive"),
        ("--prompt A", "interactive"),
        ("--test_data f", "evaluate"),
        ("--test_data f --mode classify", "classify"),
        ("--mode generate", "generate"),
    ],
)
def test_inference_mode_follows_from_what_is_given(argv, mode):
    assert read(*argv.split(), settings_class=InferenceSettings).resolved_mode() == mode


# ---- writing settings ----------------------------------------------------------------

# NUL and halves of letters are refused.
PATHS = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
    min_size=1,
    max_size=40,
)


@hypothesis.settings(max_examples=30)
@given(
    PATHS,
    PATHS,
    st.none() | PATHS.filter(lambda text: text.lower() not in ("none", "null")),
    st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    st.floats(min_value=0, max_value=1, exclude_max=True),
    st.integers(0, 2**32 - 1),
)
@example("数据/训练.jsonl", "输出 文件夹", "元.来源", 5e-5, 1e-5, 0)
@example("5e-5", "yes", "null ", 1e22, 0.0, 1)
@example("line\x85end", "\u2028", "a\u2029b\r\nc\n", 1.0, 0.0, 0)
@example("a: b # c", "- x", "~\xa0", 1e-300, 0.5, 2)
def test_written_settings_read_back_as_they_were(
    tmp_path_factory, data_path, output_dir, group_by, learning_rate, dropout, seed
):
    settings = TrainSettings(
        data_path=data_path,
        output_dir=output_dir,
        group_by=group_by,
        learning_rate=learning_rate,
        dropout=dropout,
        seed=seed,
    )
    path = tmp_path_factory.getbasetemp() / "written.yaml"
    for explain in (True, False):
        text = to_yaml(settings, heading="Settings of a run", explain=explain)
        path.write_text(text, encoding="utf-8", newline="\n")
        assert load_settings(TrainSettings, path) == settings


def test_written_settings_leave_out_what_was_said_for_one_call(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text(to_yaml(TrainSettings(resume=True, config="x.yaml")), encoding="utf-8")
    assert load_settings(TrainSettings, path) == TrainSettings()


def test_chinese_path_stays_readable_in_the_written_file():
    assert "data_path: 数据/训练.jsonl\n" in to_yaml(TrainSettings(data_path="数据/训练.jsonl"))


def test_an_option_that_is_gone_is_read_in_stored_settings_and_refused_in_a_config_file(tmp_path):
    path = tmp_path / "settings.yaml"
    for value, runs in (("0.5", False), ("0.0", True), ("auto", True)):
        path.write_text(to_yaml(TrainSettings()) + f"language_share: {value}\n", encoding="utf-8")
        assert load_settings(TrainSettings, path) == TrainSettings()
        argv, how = (
            ["--config", str(path)],
            {"prog": "t", "description": "", "default_config": path},
        )
        if runs:
            assert read_settings(TrainSettings, argv, **how).seed == TrainSettings().seed
        else:
            with pytest.raises(
                SettingsError, match=r"language_share '0\.5' is an option of an older"
            ):
                read_settings(TrainSettings, argv, **how)


def test_settings_file_of_a_newer_version_is_refused_by_name(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text(to_yaml(TrainSettings()) + "new_option: 3\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="unknown option 'new_option'"):
        load_settings(TrainSettings, path)
