"""The part of the server that is written in Python. Plugins use `plugincore`; nothing here is for them."""
