"""The Dagster assets and checks: they read the lake, call the core, write, and report metadata."""
