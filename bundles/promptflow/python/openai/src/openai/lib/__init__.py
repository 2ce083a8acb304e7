"""Services that have OpenAI's API in a way of their own."""
