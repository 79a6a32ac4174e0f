"""What batches cost: prices, and the bill that is made of them."""
