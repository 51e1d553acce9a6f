"""Table K1: the hyper-parameters of the 110 runs and of the marked extra runs, with the provenance of each value."""

import layout

from replicate import grid

MARKS = {"transcribed": "", "inferred": "†", "proposed": "‡"}
COLUMNS = {"run": "run", "method": "method", "source": "source", "sweeps": "sweeps", "epochs": "epochs",
           "optimizer": "optimizer", "batch_size": "batch", "base_lr": "base LR", "weight_decay": "WD", "inv": "λ inv",
           "var": "μ var", "cov": "ν cov", "temperature": "τ", "teacher_temp": "τ teacher",
           "student_temp": "τ student", "proj_dim": "d"}
TITLE = "Table K1: hyper-parameters of the 110 runs and of the extra runs"
NOTES = [
    "No mark: transcribed from a published source. † inferred from the paper's text or tables. "
    "‡ proposed by this project, as no source was found.",
    "A mark on a run's name: its number in the paper's list is inferred; on its sweeps: that it belongs to them.",
    "Learning rate: base LR x batch / 256 x the profile's factor; batch, epochs and d are the paper's, a profile "
    "scales them. Runs named -extra- lie beyond the sweeps' ends, are not in the paper and not among the 110.",
]


def build(profile) -> None:
    runs = grid.load()
    rows = [[plain(run, field) + MARKS[run.provenance(field)] if plain(run, field) else "" for field in COLUMNS]
            for run in runs]
    header = [*COLUMNS, "inferred_fields", "proposed_fields", "extra"]
    machine = [[*(plain(run, field) for field in COLUMNS), " ".join(run.inferred_fields), " ".join(run.proposed_fields),
                str(run.extra).lower()] for run in runs]
    layout.write(profile.name, "table-K1", TITLE, list(COLUMNS.values()), rows, NOTES, machine=(header, machine))


def plain(run: grid.Run, field: str) -> str:
    """The value as grid.csv has it, empty where the method has no such hyper-parameter."""
    value = getattr(run, field)
    if value is None:
        return ""
    if isinstance(value, tuple):
        return " ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    layout.main(build, "table-K1")
