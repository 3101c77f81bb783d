"""Real language in the decoder: SmolLM2-135M, whose layers have the layout of Llama's."""
