"""What is shown in a terminal: tables, charts, records as text."""
