"""The read service under command line, API and page."""
