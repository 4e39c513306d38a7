"""The ledger by days: how it is split, and which days there are."""
