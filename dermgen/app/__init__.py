"""`dermgen app`: pages in the browser, on this machine only."""
