"""`pulumi-resource-kubernetes`: serve the provider to the engine that started this process."""

from __future__ import annotations

import sys

from pulumi.runtime.proto import provider_pb2_grpc

from local.plugins.kubernetes.provider import KubernetesProvider
from local.plugins.server import engine_address, serve


def main() -> None:
    provider = KubernetesProvider(engine_address(sys.argv[1:]))
    serve(
        lambda server: provider_pb2_grpc.add_ResourceProviderServicer_to_server(provider, server),
        workers=256,  # a thread waits with each object that is not ready yet
        clean_up=provider.close,
    )


if __name__ == "__main__":
    main()
