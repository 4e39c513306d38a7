"""Does it lose events? A workload, faults, and a checker that believes nothing it is told."""
