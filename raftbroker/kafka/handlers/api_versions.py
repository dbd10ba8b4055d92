"""ApiVersions (18): what this node serves.

The answer's header is always the old one, and a version that is not known is answered in the form of version 0 with
UNSUPPORTED_VERSION, so that any client can read it (KIP-511); `unsupported` is that answer, made by the connection.
"""

from kafka.protocol.metadata.api_versions import ApiVersionsRequest, ApiVersionsResponse

from raftbroker.kafka.api import Api, Parts, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext, Served
from raftbroker.kafka.errors import ErrorCode

KEY = 18


async def handle(context: KafkaContext, request: Request[ApiVersionsRequest]) -> ApiVersionsResponse:
    return ApiVersionsResponse(error_code=ErrorCode.NONE, api_keys=_ranges(context.served), throttle_time_ms=0)


def unsupported(served: tuple[Served, ...]) -> Parts:
    """What a version that is not known is answered, in the form of version 0."""
    answer = ApiVersionsResponse(error_code=ErrorCode.UNSUPPORTED_VERSION, api_keys=_ranges(served))
    return API.codec.encode(answer, 0)


def _ranges(served: tuple[Served, ...]) -> list[ApiVersionsResponse.ApiVersion]:
    return [
        ApiVersionsResponse.ApiVersion(api_key=api.key, min_version=api.min_version, max_version=api.max_version)
        for api in served
    ]


API = Api(
    key=KEY,
    name="ApiVersions",
    min_version=0,
    max_version=4,
    codec=messages(ApiVersionsRequest, ApiVersionsResponse),
    handle=handle,
)
