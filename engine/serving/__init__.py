"""A model that answers: OpenAI's protocol, and the terminal's chat."""
