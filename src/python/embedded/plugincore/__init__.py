"""What plugins import: `baseplugin`, `configfile`, `logjam`, `pluginmanager`, `sysinfo`.

This package is carried inside the server and is found before any installed one of the same name.
"""
