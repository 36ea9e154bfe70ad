"""Names of header fields and methods, as constants."""

METH_ANY = "*"
METH_CONNECT = "CONNECT"
METH_DELETE = "DELETE"
METH_GET = "GET"
METH_HEAD = "HEAD"
METH_OPTIONS = "OPTIONS"
METH_PATCH = "PATCH"
METH_POST = "POST"
METH_PUT = "PUT"
METH_TRACE = "TRACE"

_NAMES = """Accept Accept-Charset Accept-Encoding Accept-Language Accept-Ranges Access-Control-Allow-Credentials
Access-Control-Allow-Headers Access-Control-Allow-Methods Access-Control-Allow-Origin Access-Control-Expose-Headers
Access-Control-Max-Age Access-Control-Request-Headers Access-Control-Request-Method Age Allow Authorization
Cache-Control Connection Content-Disposition Content-Encoding Content-Language Content-Length Content-Location
Content-MD5 Content-Range Content-Transfer-Encoding Content-Type Cookie Date Destination Digest ETag Expect Expires
Forwarded From Host If-Match If-Modified-Since If-None-Match If-Range If-Unmodified-Since Keep-Alive Last-Event-ID
Last-Modified Link Location Max-Forwards Origin Pragma Proxy-Authenticate Proxy-Authorization Range Referer Retry-After
Sec-WebSocket-Accept Sec-WebSocket-Extensions Sec-WebSocket-Key Sec-WebSocket-Key1 Sec-WebSocket-Protocol
Sec-WebSocket-Version Server Set-Cookie TE Trailer Transfer-Encoding Upgrade URI User-Agent Vary Via Want-Digest
Warning WWW-Authenticate X-Forwarded-For X-Forwarded-Host X-Forwarded-Proto"""

globals().update({name.upper().replace("-", "_"): name for name in _NAMES.split()})
