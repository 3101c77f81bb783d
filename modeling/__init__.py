"""The model: contexts, attention, decoding, flow sampling, the autoencoder and BAGEL itself."""
