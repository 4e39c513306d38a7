"""The commands of `veltrix`, one file for each subject."""
