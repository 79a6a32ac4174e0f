"""Gemini batches on Vertex AI, also called Gemini Enterprise Agent Platform, as if they were OpenAI's.

Importing this package costs nothing: Google's own packages are imported where they are used, and not before.
"""
