"""What is said of runs, for terminals, notebooks, ``--json`` and pages: words and values, no layout."""
