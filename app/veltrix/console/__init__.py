"""The console for operators, at /console: pages made here, read-only views, audited actions."""
