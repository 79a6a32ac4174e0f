"""The whole job: any input, submitted exactly once, one complete result set."""
