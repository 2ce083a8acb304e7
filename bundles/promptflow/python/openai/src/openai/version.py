"""The release of OpenAI's own package whose API this one follows."""

VERSION = "1.109.1"
