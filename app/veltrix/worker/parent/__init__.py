"""The worker's parent: takes messages, makes lists of them, and gives each to an idle child."""
