"""A generic Kubernetes provider, for machines where the official one cannot be had.

Serves `pulumirpc.ResourceProvider` for every API type that a cluster serves, custom resources
included, over server-side apply. docs/plugins.md lists what it does and what it leaves out.

    values      property values of the engine <-> plain Python; secrets and unknowns; redaction
    kubeconfig  which cluster, and how to log in
    client      HTTP to the API server: discovery, apply, read, delete
    naming      type tokens, object ids, automatic names, field managers
    diffs       what changed between two sets of inputs, and what of it forces a replacement
    drift       what changed in the cluster since the last update
    waiting     readiness per kind, with progress lines
    stalls      why an object is not ready
    actions     create, read, update, delete on one object
    provider    the gRPC service
"""
