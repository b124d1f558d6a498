"""What a study needs of a machine: sizes, speeds, memory and disk, known before anything is spent."""
