"""How a file of the store is answered: with its digest as ETag, and never kept by a cache.

>>> return file_answer(data, "application/json")
"""

from fastapi import Response

from registry.trust.canonical import hex_of, sha256_bytes


def file_answer(data: bytes, media_type: str) -> Response:
    """`data` whole; a page of HTML may run nothing and load nothing."""
    headers = {
        "ETag": f'"{hex_of(sha256_bytes(data))}"',
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, no-store",
    }
    if media_type == "text/html":
        headers["Content-Security-Policy"] = (
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
        )
    return Response(data, media_type=media_type, headers=headers)
