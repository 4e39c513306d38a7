"""A package that has the name of one of our folders."""
