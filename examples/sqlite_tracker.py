"""A tracker of one's own: each number of each step is a row of a SQLite table beside the run's other files."""

import sqlite3
from pathlib import Path
from typing import Any

import phfcli as phf


class SqliteTracker:
    def __init__(self, folder: Path) -> None:
        self._database = sqlite3.connect(folder / "metrics.sqlite")
        with self._database:
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS metrics (step INT, name TEXT, value REAL, PRIMARY KEY (step, name))"
            )

    def store_init_configuration(self, values: dict[str, Any]) -> None: ...  # config.yaml has the settings

    def log(self, values: dict[str, Any], step: int) -> None:
        rows = [(step, name, value) for name, value in values.items()]
        with self._database:  # a step that a stopped run had logged already is replaced
            self._database.executemany("INSERT OR REPLACE INTO metrics VALUES (?, ?, ?)", rows)

    def finish(self) -> None:
        self._database.close()


if __name__ == "__main__":
    phf.register_tracker("sqlite", SqliteTracker)
    config = {"report_to": ["sqlite"], "batch_size": 4, "rollout.max_new_tokens": 48}
    run = phf.train(config=config, steps=2)
    with sqlite3.connect(run.folder / "metrics.sqlite") as database:
        print(*database.execute("SELECT step, value FROM metrics WHERE name = 'loss'"), sep="\n")
