"""Doctor: what can lose, duplicate, stall or hide work in a deployment, and the cure of each.

`rule` says what a rule is, `facts/` reads what rules look at, `rules/` has them by subject,
`examine` holds the one against the other, `report/` tells it.
"""
