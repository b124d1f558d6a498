"""Marker-leakage studies of language-model personas as a Dagster asset graph."""
