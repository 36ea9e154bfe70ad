"""The request that handlers get, under the name that aiohttp gives it."""

from pserve_runtime.request import FileField, Request

BaseRequest = Request

__all__ = ["BaseRequest", "FileField", "Request"]
