"""Learning rate schedules of trials; one file per schedule."""
