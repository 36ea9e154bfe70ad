"""Tests of the plugin `example`, called as the server would: pserve python -m pytest"""

import asyncio

from example import Example


def call(**fields):
    """What the handler answers to these fields."""
    return asyncio.run(Example().request_handler(**fields))


def test_example_says_hello():
    assert call(name="Ada") == {"hello": "Ada"}


def test_example_does_without_a_name():
    assert call() == {"hello": "world"}
