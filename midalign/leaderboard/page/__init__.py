"""The board as one static page that works from a folder, without a server."""
