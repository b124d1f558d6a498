"""Reading the results of earlier studies that a collection of scripts left in files: one module for each layout.

Nothing is guessed. A key that a file lacks is named in the error, keys that nobody needs are ignored, and what the
files cannot support is listed. Pickles are not opened, with the one exception of centroids, which torch reads with
`weights_only=True`.
"""
