"""What things are: pure types and rules, without I/O, clock or framework."""
