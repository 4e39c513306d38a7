"""What writes pages of `docs/` from the code: `python -m veltrix.docs`."""
