"""A file of prompts to a folder of results, alone or among many processes."""
