"""One poll loop per connection, shared by every trigger of a process."""
