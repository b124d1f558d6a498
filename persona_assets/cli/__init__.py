"""The command line: run a study, see where it stands, query its warehouse."""
