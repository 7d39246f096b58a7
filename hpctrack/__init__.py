"""hpctrack: track Slurm jobs in PostgreSQL.

In a script: ``import hpctrack; hpctrack.log(step=3, loss=0.2)``. Importing this loads the standard
library only; every public name is resolved on first use.
"""

__version__ = "0.1.0"

_HOMES = {
    "log": "hpctrack.script.calls",
    "goal": "hpctrack.script.calls",
    "set_args": "hpctrack.script.calls",
    "set_tags": "hpctrack.script.calls",
    "Client": "hpctrack.api",
    "Experiment": "hpctrack.api",
    "Run": "hpctrack.api",
}
# What works wherever a job runs: "from hpctrack import *" in a script must not ask for numpy and psycopg.
__all__ = ["__version__", "goal", "log", "set_args", "set_tags"]

TYPE_CHECKING = False  # the module typing takes longer to load than all of this
if TYPE_CHECKING:
    from hpctrack.api import Client as Client
    from hpctrack.api import Experiment as Experiment
    from hpctrack.api import Run as Run
    from hpctrack.script.calls import goal as goal
    from hpctrack.script.calls import log as log
    from hpctrack.script.calls import set_args as set_args
    from hpctrack.script.calls import set_tags as set_tags


def __getattr__(name: str) -> object:
    """Resolve a public name (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError("module 'hpctrack' has no attribute " + repr(name))
    # Not importlib.import_module: importlib takes longer to load than what is wanted.
    try:
        value = getattr(__import__(home, fromlist=[name]), name)
    except ModuleNotFoundError as error:
        if error.name != home:
            raise
        said = " needs all of hpctrack, and here is hpctrack-script alone: pip install hpctrack"
        raise ModuleNotFoundError("hpctrack." + name + said, name=home) from None
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> "list[str]":
    return sorted({*_HOMES, *__all__})
