"""What writes reference pages of `docs/` from the code: `python -m veltrix.docs.settings_page`."""
