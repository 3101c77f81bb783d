"""How the bundled model is made: tokenizer, autoencoder, decoder."""
