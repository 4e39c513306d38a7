"""Who may do what, and what they did: keys, sessions, answers kept for them, the audit."""
