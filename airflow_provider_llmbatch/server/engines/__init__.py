"""What stands behind the batch server and answers single requests."""
