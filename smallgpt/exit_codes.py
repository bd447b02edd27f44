"""Exit codes of the commands.

| code | name             | when |
|------|------------------|------|
| 0    | EXIT_OK          | The work is done, was done before, or its reader has left (`| head`). |
| 1    | EXIT_FAILED      | `UserError`: bad data, a missing file, a full disk. Out of memory. Bad |
|      |                  | rows that --check_data found. A bug, after its traceback. |
| 2    | EXIT_USAGE       | `SettingsError`: wrong flags or settings; nothing was done. |
| 129  | EXIT_HUNG_UP     | Training got SIGHUP: its terminal is gone. It has saved a checkpoint. |
| 130  | EXIT_INTERRUPTED | Ctrl-C. Training has saved a checkpoint, unless it came twice. |
| 143  | EXIT_TERMINATED  | SIGTERM. Training has saved a checkpoint. |

Errors carry their code (`smallgpt.errors`), and so does the signal that stopped training
(`smallgpt.training.stopping`); `smallgpt.command.run_command` ends the process with it.
"""

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
EXIT_HUNG_UP, EXIT_INTERRUPTED, EXIT_TERMINATED = 129, 130, 143  # 128 + the signal's number
