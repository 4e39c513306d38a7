"""How an examination is told: to people, as SARIF, and the whole story of one rule."""
