"""What judges read: exports of a folder of results, a layout for each benchmark."""
