"""What workflows are written with: steps, workflows, and the JSON form of their values."""
