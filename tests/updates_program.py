"""Some updates of several runs, as one of several processes: tests/training/test_processes.py.

    python tests/updates_program.py CASES UPDATES RESULT

CASES is a JSON file of settings by name. RESULT gets by name the loss and the norm of each update,
the figures of the validation rows before the first, and whether all processes end with the same
weights. `poisoned` in a name: the last process gives no finite number at the third update.
"""

import json
import sys
from pathlib import Path

import torch

from smallgpt.options.training import TrainSettings
from smallgpt.processes import joined
from smallgpt.training.alike import share_weights, weights_digest
from smallgpt.training.data import read_data
from smallgpt.training.run_folder import RunFolder
from smallgpt.training.run_log import RunLog
from smallgpt.training.setup import build_run, torch_state_restored
from smallgpt.training.stopping import StopSignal
from smallgpt.training.update import Updater


def silent(_: str) -> None:
    pass


def result_of(name, settings, updates, processes):
    folder = RunFolder(settings.output_dir)
    log = RunLog(folder, later=True, shown=False)
    said = []
    log.say = said.append
    rows = read_data(settings, silent)
    run = build_run(settings, folder, log, *rows, processes=processes)
    share_weights(run)
    with StopSignal(processes) as stop:
        before = run.validate(stop).figures
    updater, losses, norms = Updater(run), [], []
    batches = [each for epoch in range(updates) for each in run.updates_of_epoch(epoch)]
    real = run.gradients.objective.forward.__call__

    def poisoned(*given):
        return real(*given) * float("nan")

    for number, update in enumerate(batches[:updates]):
        at_fault = "poisoned" in name and number == 2 and processes.rank == processes.count - 1
        run.gradients.objective.forward = poisoned if at_fault else real
        nll = run.state.epoch_nll
        updater.set_learning_rate()
        updater.compute_gradients(update)
        updater.step_optimizers()
        terms = int(run.loss_terms_N[[row for batch in update for row in batch]].sum())
        losses.append((run.state.epoch_nll - nll) / terms)
        norms.append(float(updater.norm))
    digests = processes.of_all(weights_digest(run.model))
    figures = {name: value for name, value in before.items() if isinstance(value, float)}
    return {
        "losses": losses,
        "norms": norms,
        "figures": figures,
        "digests": digests,
        "said": [line for line in said if "warning" in line],
    }


def main(cases: str, updates: str, result: str) -> None:
    torch.set_num_threads(1)
    with joined(100.0) as processes:
        found = {}
        for name, values in json.loads(Path(cases).read_text()).items():
            with torch_state_restored():
                settings = TrainSettings(**values)
                found[name] = result_of(name, settings, int(updates), processes)
        if processes.is_first:
            Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
