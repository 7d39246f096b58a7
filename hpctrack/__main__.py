"""``python -I -m hpctrack``: the command line, where hpctrack belongs to the interpreter.

Without ``-I`` Python looks into the current folder first; the command ``hpctrack`` never does.
"""

from hpctrack.cli.main import main

if __name__ == "__main__":
    main()
