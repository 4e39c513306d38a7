"""One run: the coroutines of its code, what they ask for, and how it ends."""
