"""The ledger by days: how it is split, which days there are, for how long, and what has left."""
