"""Which package on PyPI brings a module, where the two have different names."""

from __future__ import annotations

_PACKAGES = {
    "Adafruit_DHT": "Adafruit-DHT",
    "Crypto": "pycryptodome",
    "MySQLdb": "mysqlclient",
    "OpenSSL": "pyOpenSSL",
    "PIL": "Pillow",
    "RPi": "RPi.GPIO",
    "attr": "attrs",
    "board": "Adafruit-Blinka",
    "bluetooth": "PyBluez",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "discord": "discord.py",
    "dns": "dnspython",
    "docx": "python-docx",
    "dotenv": "python-dotenv",
    "fitz": "PyMuPDF",
    "gi": "PyGObject",
    "git": "GitPython",
    "jose": "python-jose",
    "jwt": "PyJWT",
    "ldap": "python-ldap",
    "magic": "python-magic",
    "markdown": "Markdown",
    "nmap": "python-nmap",
    "paho": "paho-mqtt",
    "pkg_resources": "setuptools",
    "psycopg2": "psycopg2-binary",
    "pygments": "Pygments",
    "bson": "pymongo",
    "serial": "pyserial",
    "sklearn": "scikit-learn",
    "skimage": "scikit-image",
    "slugify": "python-slugify",
    "smbus": "smbus2",
    "snmp": "pysnmp",
    "socks": "PySocks",
    "telegram": "python-telegram-bot",
    "usb": "pyusb",
    "websocket": "websocket-client",
    "win32api": "pywin32",
    "yaml": "PyYAML",
    "zmq": "pyzmq",
}


def package_of(module: str) -> str:
    """What to give to `pip install` for a module."""
    return _PACKAGES.get(module, module)
