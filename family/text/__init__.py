"""Language: tokenizers, text students, teachers that speak, and what their words teach."""
