"""hpctrack for scripts: the folder above holds this package alone, so that on PYTHONPATH it shadows no other.

Importing it gives the package three folders up. Python 3.8 or newer. Nobody can change this file who can't
change hpctrack itself.
"""

import os

_REAL = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
__path__ = [_REAL]
__file__ = os.path.join(_REAL, "__init__.py")
with open(__file__, encoding="utf-8") as _file:
    exec(compile(_file.read(), __file__, "exec"))  # noqa: S102 (it becomes the package)
