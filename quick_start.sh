#!/usr/bin/env bash
# ./quick_start.sh          environment, digits, training, evaluation, pictures
# ./quick_start.sh setup    the environment in .venv only
# ./quick_start.sh test     the tests (further words go to pytest)
# ./quick_start.sh check    lint, form and types of the code, also of the page if npm is there
#
# Run again, it skips what is done and goes on with what was interrupted.
# PYTHON=/path/to/python3.12 chooses the interpreter for a new .venv.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1

PY=.venv/bin/python

# step NAME COMMAND...: run a command; where it fails, say which step and leave with its code.
step() {
    local name=$1 code
    shift
    printf '\n== %s\n' "$name" >&2
    "$@"
    code=$?
    if [ "$code" -ne 0 ]; then
        printf '\nquick_start.sh: stopped at the step "%s" (exit code %s)\n' "$name" "$code" >&2
        if [ "$code" -eq 130 ] || [ "$code" -eq 143 ] || [ "$code" -eq 129 ]; then
            echo "run ./quick_start.sh again to go on" >&2
        fi
        exit "$code"
    fi
}

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
            >/dev/null 2>&1; then
            echo "$candidate"
            return 0
        fi
    done
    echo "no Python 3.11 or newer with venv found; install one (Debian, Ubuntu: apt install" >&2
    echo "python3 python3-venv), or name it: PYTHON=/path/to/python3.12 ./quick_start.sh" >&2
    return 1
}

make_venv() {
    local python
    python=$(find_python) || return 1
    "$python" -m venv --clear .venv
}

# install WHAT ARGUMENTS...: pip install them into .venv, unless exactly this was installed before.
install() {
    local what=$1 stamp=".venv/.installed-$1" state
    shift
    state=$(echo "$@"; cat requirements.txt constraints.txt pyproject.toml)
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$state" ]; then
        echo "$what: already installed"
        return 0
    fi
    "$PY" -m pip install --disable-pip-version-check "$@" || return 1
    printf '%s\n' "$state" >"$stamp"
}

setup() {
    if ! "$PY" -c '' 2>/dev/null; then
        step "making the environment in .venv" make_venv
    fi
    # Stopped halfway, it has a Python and no pip yet.
    if ! "$PY" -m pip --version >/dev/null 2>&1; then
        step "completing the environment in .venv" "$PY" -m ensurepip
    fi
    step "installing requirements.txt (the first time this downloads torch)" \
        install requirements -r requirements.txt
}

setup_for_development() {
    setup
    step "installing what the tests need" \
        install dev -r requirements.txt -e '.[dev]' -c constraints.txt
}

quick_start() {
    setup
    # An older version listed no files there, and marked variants in another way: its are replaced.
    if [ ! -f data/digits/train.jsonl ] || ! grep -qs '"files"' data/digits/prepared.json; then
        step "preparing the handwritten digits" "$PY" prepare_data.py digits --overwrite
    fi
    step "training" "$PY" train_gpt.py --resume
    if [ ! outputs/evaluation_test/metrics.json -nt outputs/best_model/model.safetensors ]; then
        # That of the weights before, if it is there, has lost its model.
        step "evaluating on test rows the model has never seen" \
            "$PY" inference.py --test_data data/digits/test.jsonl \
            --output_dir outputs/evaluation_test --overwrite
    fi
    if [ ! outputs/generated.png -nt outputs/best_model/model.safetensors ]; then
        step "drawing digits that the model makes up" \
            "$PY" inference.py --mode generate --num_return_sequences 40 --seed 1 \
            --image outputs/generated.png --overwrite --json >/dev/null
    fi
    cat <<'TEXT'

== done
  outputs/best_model        the model, a standard Hugging Face checkpoint
  outputs/evaluation_test   metrics.json, predictions.jsonl, confusion matrix
  outputs/plots             training curves
  outputs/generated.png     digits that the model made up

Try next (after: source .venv/bin/activate):
  python inference.py                                        predict the next token
  python inference.py --mode generate --label 7 --num_return_sequences 20 --image sevens.png
  python inference.py --test_data data/digits/test.jsonl     evaluate a file
  python prepare_data.py --help                              your own images or tokens
  python train_gpt.py --help                                 every option
TEXT
}

# Types and lint of the JavaScript that --format web writes.
check_page() {
    local tools=tests/export/web
    if ! command -v npm >/dev/null; then
        echo "npm is not there: types and lint of smallgpt/export/web are not checked" >&2
        return 0
    fi
    if ! npm --prefix "$tools" ls >/dev/null 2>&1; then
        step "installing what checks the page" \
            npm --prefix "$tools" install --no-package-lock --ignore-scripts
    fi
    step "types of the page" npm --prefix "$tools" run --silent types
    step "lint of the page" npm --prefix "$tools" run --silent lint
}

case "${1:-}" in
    "")
        quick_start
        ;;
    setup)
        setup
        echo "ready; the commands of the README find it after: source .venv/bin/activate"
        ;;
    test)
        shift
        setup_for_development
        # A worker per core, of one thread each; -n 0 runs all in one process.
        step "testing" "$PY" -m pytest -n auto --maxprocesses 8 --dist worksteal "$@"
        ;;
    check)
        setup_for_development
        step "lint" "$PY" -m ruff check .
        step "form (ruff format . mends it)" "$PY" -m ruff format --check .
        step "types" "$PY" -m mypy
        check_page
        ;;
    -h | --help | help)
        sed -n '2,9s/^# \{0,1\}//p' "$0"
        ;;
    --version)
        sed -n 's/^VERSION = "\(.*\)"/smallgpt \1/p' smallgpt/distribution.py
        ;;
    *)
        echo "quick_start.sh: unknown word: $1" >&2
        echo "usage: ./quick_start.sh [setup | test | check | --version]" >&2
        exit 2
        ;;
esac
