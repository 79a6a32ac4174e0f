"""Vertex AI's Gemini batches behind OpenAI's words. Importing this package costs nothing: no client of Google's."""
