"""hpctrack: track Slurm jobs in PostgreSQL.

In a script: ``import hpctrack; hpctrack.log(step=3, loss=0.2)``. Importing this loads the standard
library only; every public name is resolved on first use.
"""

__version__ = "0.1.0"

_HOMES = {
    "log": "hpctrack.script",
    "set_args": "hpctrack.script",
    "set_tags": "hpctrack.script",
    "Client": "hpctrack.api",
    "Experiment": "hpctrack.api",
    "Run": "hpctrack.api",
}
__all__ = ["Client", "Experiment", "Run", "__version__", "log", "set_args", "set_tags"]


def __getattr__(name: str) -> object:
    """Resolve a public name (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError("module 'hpctrack' has no attribute " + repr(name))
    # Not importlib.import_module: importlib takes longer to load than what is wanted.
    value = getattr(__import__(home, fromlist=[name]), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> "list[str]":
    return sorted(__all__)
