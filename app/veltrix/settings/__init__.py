"""Settings: what can be set (`fields`), read from the environment and checked."""
