"""The statistics of a study: one file per family, arrays and frames in, tidy frames and typed results out.

Nothing here knows Dagster, the lake or a file: every function runs in a notebook on plain frames. Start with
`observations.StudyObservations.from_frames` and hand it to a family, or to `analysis.analyse` for all of them.
"""
