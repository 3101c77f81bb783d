"""One prompt's way: what it reads, writes and draws, and what it asks for."""
