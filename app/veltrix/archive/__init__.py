"""History as files: days of events, runs, journal and failed attempts, which prove themselves."""
