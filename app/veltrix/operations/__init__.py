"""What people do with runs and look at, one room for each subject.

In each: `rules` is pure, `*_rows` is SQL that writes or locks, `read*` is SQL for people.
"""
