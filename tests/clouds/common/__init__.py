"""What the doubles of all clouds share: HTTP, the clock, scripted faults, records, their control and their client."""
