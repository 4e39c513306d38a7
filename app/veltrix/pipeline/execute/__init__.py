"""Execute: claimed runs are advanced, journalled and settled, in lists, under a lease."""
