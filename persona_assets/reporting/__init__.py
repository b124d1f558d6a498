"""Pictures, tables and text made from the tables of a study."""
