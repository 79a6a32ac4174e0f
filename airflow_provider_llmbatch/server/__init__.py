"""The embedded batch server: OpenAI's files and batches in front of an engine, for laptops, tests and own models."""
