"""What the user's script loads: `calls` has what it calls. Nodes load `journal_lines` and `ranks` alone."""
