"""The watch: the live rules again and again, with canary events, until somebody is told."""
