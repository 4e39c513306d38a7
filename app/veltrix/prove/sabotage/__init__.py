"""Known mistakes, switched on in the product so that the checker must see each."""
