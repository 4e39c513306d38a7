"""History by days: made ahead, and what has ended put where it belongs."""
