"""What is run for one key of a partitioned step, in this process or in a worker.

A task is a small picklable record of paths and settings; its function fills a staging directory and returns
facts (plain JSON values) for the manifest. Models that several tasks share stay loaded in the process.
"""
