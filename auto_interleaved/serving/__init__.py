"""The server: a batch of requests that never ends, and the formats in which they come and go."""
