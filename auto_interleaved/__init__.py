"""The parts behind `auto_interleaved_inference`: the write-or-draw loop and what it is made of."""
