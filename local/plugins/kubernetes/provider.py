"""The gRPC service: the engine's requests, answered by `actions` on one cluster."""

from __future__ import annotations

import importlib.metadata
import json
import threading
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2, empty_pb2
from pulumi.runtime.proto import (
    engine_pb2,
    engine_pb2_grpc,
    plugin_pb2,
    provider_pb2,
    provider_pb2_grpc,
    status_pb2,
)

from local.plugins.kubernetes import kubeconfig, naming
from local.plugins.kubernetes.actions import Objects
from local.plugins.kubernetes.answers import UNREACHABLE, abort, answered, diff_response
from local.plugins.kubernetes.checks import (
    Names,
    another_cluster,
    manifests,
    misuse,
    same_fixed_name,
)
from local.plugins.kubernetes.client import ApiError, Client, NoSuchKindError, UnreachableError
from local.plugins.kubernetes.diffs import (
    Change,
    changes,
    immutable_fields,
    refused_changes,
    refused_in_place,
    with_replaces,
)
from local.plugins.kubernetes.request import FIELD_MANAGER, RefusedError, Request, Severity
from local.plugins.kubernetes.settings import ProviderSettings, with_secret_kubeconfig
from local.plugins.kubernetes.shape import object_id, outputs
from local.plugins.kubernetes.values import (
    Redactor,
    Secret,
    decode,
    encode,
    has_unknown,
    reveal,
    without_unknown,
)
from local.plugins.kubernetes.waiting import NotReadyError
from local.plugins.server import OPTIONS

SEVERITIES = {
    "debug": engine_pb2.LogSeverity.DEBUG,
    "info": engine_pb2.LogSeverity.INFO,
    "warning": engine_pb2.LogSeverity.WARNING,
}
HINT_GONE = (
    "; if the cluster was deleted for good, run again with PULUMI_K8S_DELETE_UNREACHABLE=true to"
    " drop its resources from the state"
)


class KubernetesProvider(provider_pb2_grpc.ResourceProviderServicer):
    """One process serves one provider resource; requests come in parallel."""

    def __init__(self, engine: str) -> None:
        channel = grpc.insecure_channel(engine, options=OPTIONS)
        self._engine = engine_pb2_grpc.EngineStub(channel)
        self._redactor = Redactor()
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._settings = ProviderSettings()
        self._objects: Objects | None = None
        self._problem = "the provider has not been configured"
        self._names = Names()
        self._replacing: set[str] = set()  # URNs whose old object goes before the new one comes

    def close(self) -> None:
        self._cancelled.set()

    # Talking.

    def log(self, urn: str, severity: Severity, message: str, *, status: bool = False) -> None:
        """One line for the user; a `status` one only while the operation runs."""
        try:
            self._engine.Log(
                engine_pb2.LogRequest(
                    severity=SEVERITIES[severity],
                    message=self._redactor.clean(message),
                    urn=urn,
                    ephemeral=status,
                ),
                timeout=5,
            )
        except grpc.RpcError:
            return  # the engine is on its way out; there is nobody left to tell

    def abort(self, context: grpc.ServicerContext, message: str) -> NoReturn:
        abort(context, grpc.StatusCode.UNKNOWN, self._redactor.clean(message))

    def _abort_unready(
        self,
        context: grpc.ServicerContext,
        *,
        identity: str,
        what: str,
        reasons: list[str],
        outputs: dict[str, Any],
        inputs: dict[str, Any],
    ) -> NoReturn:
        """Say that the object exists (so it is kept in the state) and is not ready."""
        reasons = [self._redactor.clean(each) for each in reasons]
        detail = provider_pb2.ErrorResourceInitFailed(
            id=identity, properties=encode(outputs), reasons=reasons, inputs=encode(inputs)
        )
        packed = any_pb2.Any()
        packed.Pack(detail)
        code = grpc.StatusCode.UNKNOWN
        status = status_pb2.Status(code=code.value[0], message=what, details=[packed])
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        abort(context, code, what)

    def _request(
        self, urn: str, inputs: dict[str, Any], state: dict[str, Any], seconds: float = 0
    ) -> Request:
        self._redactor.learn(inputs)
        self._redactor.learn(state)
        return Request(
            urn=urn,
            inputs=inputs,
            state=state,
            seconds=seconds,
            # Progress is shown while it lasts; warnings stay in the summary.
            log=lambda severity, text: self.log(urn, severity, text, status=severity == "info"),
        )

    @property
    def _on(self) -> Objects:
        if self._objects is None:
            raise UnreachableError(self._problem)
        return self._objects

    def _reachable(self) -> str | None:
        """None, or why the cluster cannot be reached."""
        try:
            self._on.client.request("GET", "/version")
        except UnreachableError as error:
            return str(error)
        except ApiError:
            return None
        return None

    # The plugin itself.

    def Handshake(self, request: Any, context: Any) -> Any:
        return provider_pb2.ProviderHandshakeResponse(
            accept_secrets=True,
            accept_resources=False,
            accept_outputs=False,
            supports_autonaming_configuration=True,
        )

    def GetPluginInfo(self, request: Any, context: Any) -> Any:
        return plugin_pb2.PluginInfo(version=importlib.metadata.version("pulumi-kubernetes"))

    def GetSchema(self, request: Any, context: Any) -> Any:
        version = importlib.metadata.version("pulumi-kubernetes")
        return provider_pb2.GetSchemaResponse(
            schema=json.dumps({"name": "kubernetes", "version": version})
        )

    def Cancel(self, request: Any, context: Any) -> empty_pb2.Empty:
        self._cancelled.set()
        return empty_pb2.Empty()

    @answered
    def CheckConfig(self, request: Any, context: Any) -> Any:
        news = decode(request.news)
        if not has_unknown(news):
            try:
                ProviderSettings.parse(news)
            except ValueError as error:
                failure = provider_pb2.CheckFailure(reason=str(error))
                return provider_pb2.CheckResponse(inputs=request.news, failures=[failure])
        return provider_pb2.CheckResponse(inputs=encode(with_secret_kubeconfig(news)))

    @answered
    def DiffConfig(self, request: Any, context: Any) -> Any:
        old, new = decode(request.old_inputs or request.olds), decode(request.news)
        found = list(changes(old, new))
        if found and another_cluster(old, new):
            found = [Change(each.kind, each.path, True) for each in found]
        return diff_response(found, delete_first=False)

    @answered
    def Configure(self, request: Any, context: Any) -> Any:
        given = decode(request.args)
        self._redactor.learn(given)
        # `kubernetes:*` stack settings come as variables, those of a provider resource as both.
        for name, value in request.variables.items():
            given.setdefault(name.rpartition(":")[2], value)
        self._settings = ProviderSettings.parse(without_unknown(given))
        try:
            cluster = kubeconfig.load(
                self._settings.kubeconfig,
                context=self._settings.context,
                cluster=self._settings.cluster,
                namespace=self._settings.namespace,
            )
            self._objects = Objects(Client(cluster), self._settings, self._cancelled)
        except kubeconfig.KubeconfigError as error:
            self._problem = str(error)  # shown by the first operation that needs the cluster
        self.log("", "info", "kubernetes: the project's own stand-in plugin is used", status=True)
        return provider_pb2.ConfigureResponse(
            acceptSecrets=True,
            supportsPreview=True,
            acceptResources=False,
            acceptOutputs=False,
            supports_autonaming_configuration=True,
        )

    # Resources.

    @answered
    def Check(self, request: Any, context: Any) -> Any:
        olds, news = decode(request.olds), decode(request.news)
        if self._settings.skip_update_unreachable and olds:
            reason = self._reachable()
            if reason is not None:
                self.log(request.urn, "warning", f"{UNREACHABLE}: {reason}; skipped as asked")
                return provider_pb2.CheckResponse(inputs=request.olds)
        failure = misuse(request.urn, news)
        if failure is None:
            failure = self._names.give(request, olds, news, self._space_of(request))
        if failure is not None:
            return provider_pb2.CheckResponse(inputs=request.news, failures=[failure])
        if reveal(news.get("kind")) == "Secret":
            for name in ("data", "stringData"):
                if name in news and not isinstance(news[name], Secret):
                    news[name] = Secret(news[name])
        return provider_pb2.CheckResponse(inputs=encode(news))

    def _space_of(self, request: Any) -> str | None:
        """The provider's namespace, where the kind has one."""
        if not self._settings.namespace:
            return None
        try:
            gvk = naming.kind_of(request.urn, reveal(decode(request.news)))
            namespaced = self._on.client.endpoint(gvk).namespaced
        except (NoSuchKindError, UnreachableError):
            return None
        return self._settings.namespace if namespaced else None

    @answered
    def Diff(self, request: Any, context: Any) -> Any:
        state, news = decode(request.olds), decode(request.news)
        olds = decode(request.old_inputs)
        imported = FIELD_MANAGER not in state
        found = list(changes(olds, news))
        if imported:
            # The object was not made by a program: what the program leaves open, it accepts.
            found = [each for each in found if each.kind != "delete"]
        wanted = self._request(request.urn, news, state)
        fields = immutable_fields(
            wanted.gvk,
            mutable_config_maps=self._settings.enable_config_map_mutable,
            mutable_secrets=self._settings.enable_secret_mutable,
        )
        if not wanted.patch:
            found = with_replaces(found, fields)
            if found and not imported and not any(each.replace for each in found):
                found = self._judged_by_the_server(wanted, found)
            found += self._unready_replacement(wanted, found)
        replaced = any(each.replace for each in found)
        delete_first = replaced and same_fixed_name(olds, news)
        with self._lock:
            (self._replacing.add if delete_first else self._replacing.discard)(request.urn)
        return diff_response(found, delete_first=delete_first)

    def _judged_by_the_server(self, wanted: Request, found: list[Change]) -> list[Change]:
        """Changes that the server will not make in place become a replacement."""
        if has_unknown(wanted.inputs):
            return found
        try:
            refusal = self._on.refusal(wanted)
        except UnreachableError:
            return found  # the update will say so
        if refusal is None or refusal.status != 422 or not refused_in_place(refusal.message):
            return found
        return refused_changes(found, refusal.causes, refusal.message)

    def _unready_replacement(self, wanted: Request, found: list[Change]) -> list[Change]:
        if found or not naming.is_true(wanted.annotation(naming.REPLACE_UNREADY)):
            return []
        try:
            read = self._on.read(wanted, *_place(wanted.state))
        except UnreachableError:
            return []
        if read is None or not self._on.unready(wanted, read[0]):
            return []
        return [Change("update", ("metadata", "annotations", naming.REPLACE_UNREADY), True)]

    @answered
    def Create(self, request: Any, context: Any) -> Any:
        wanted = self._request(request.urn, decode(request.properties), {}, request.timeout)
        if request.preview:
            with self._lock:
                replacing = request.urn in self._replacing
            if self._objects is None and not self._settings.kubeconfig:
                self.log(request.urn, "warning", f"{UNREACHABLE}: {self._problem}")
            foreseen = self._on.preview_create(wanted, replacing=replacing)
            return provider_pb2.CreateResponse(id="", properties=encode(foreseen))
        try:
            identity, live = self._on.create(wanted)
        except NotReadyError as error:
            self._unready(context, wanted, error)
        return provider_pb2.CreateResponse(id=identity, properties=encode(outputs(live, wanted)))

    @answered
    def Update(self, request: Any, context: Any) -> Any:
        wanted = self._request(
            request.urn, decode(request.news), decode(request.olds), request.timeout
        )
        if request.preview:
            return provider_pb2.UpdateResponse(properties=encode(self._on.preview_update(wanted)))
        try:
            live = self._on.update(wanted)
        except NotReadyError as error:
            self._unready(context, wanted, error)
        return provider_pb2.UpdateResponse(properties=encode(outputs(live, wanted)))

    def _unready(
        self, context: grpc.ServicerContext, wanted: Request, error: NotReadyError
    ) -> NoReturn:
        identity = object_id(error.live)
        self._abort_unready(
            context,
            identity=identity,
            what=f"{wanted.gvk.kind} {identity} was written but is not ready",
            reasons=error.reasons,
            outputs=outputs(error.live, wanted),
            inputs=wanted.inputs,
        )

    @answered
    def Read(self, request: Any, context: Any) -> Any:
        inputs, state = decode(request.inputs), decode(request.properties)
        wanted = self._request(request.urn, inputs, state, request.timeout)
        namespace, name = naming.parse_id(request.id)
        unchanged = provider_pb2.ReadResponse(
            id=request.id, properties=request.properties, inputs=request.inputs
        )
        try:
            found = self._on.read(wanted, namespace, name)
        except UnreachableError as error:
            if self._settings.delete_unreachable:
                self.log(request.urn, "warning", f"{UNREACHABLE}: {error}; dropped as asked")
                return provider_pb2.ReadResponse()
            if self._settings.skip_update_unreachable and inputs:
                self.log(request.urn, "warning", f"{UNREACHABLE}: {error}; skipped as asked")
                return unchanged
            raise UnreachableError(f"{error}{HINT_GONE}") from error
        if found is None:
            return provider_pb2.ReadResponse()
        live, live_inputs = found
        kept = outputs(live, wanted)
        if inputs and (reasons := self._on.unready(wanted, live)):
            self._abort_unready(
                context,
                identity=request.id,
                what=f"{wanted.gvk.kind} {request.id} is not ready",
                reasons=reasons,
                outputs=kept,
                inputs=live_inputs,
            )
        return provider_pb2.ReadResponse(
            id=object_id(live), properties=encode(kept), inputs=encode(live_inputs)
        )

    @answered
    def Delete(self, request: Any, context: Any) -> Any:
        wanted = self._request(
            request.urn, decode(request.old_inputs), decode(request.properties), request.timeout
        )
        try:
            self._on.delete(wanted, *naming.parse_id(request.id))
        except UnreachableError as error:
            if not self._settings.delete_unreachable:
                raise UnreachableError(f"{error}{HINT_GONE}") from error
            self.log(request.urn, "warning", f"{UNREACHABLE}: {error}; dropped as asked")
        except NotReadyError as error:
            raise RefusedError(
                f"{wanted.gvk.kind} {request.id} is not deleted yet: {'; '.join(error.reasons)}"
            ) from error
        return empty_pb2.Empty()

    # Functions.

    @answered
    def Invoke(self, request: Any, context: Any) -> Any:
        if request.tok != "kubernetes:yaml:decode":
            raise RefusedError(
                f"{request.tok} is not part of this stand-in (docs/plugins.md): render the"
                " manifests to a file and use yaml.ConfigFile, or install the official plugin"
            )
        arguments = reveal(decode(request.args))
        space = arguments.get("defaultNamespace") or self._settings.namespace
        result = manifests(arguments.get("text") or "", space)
        answer = provider_pb2.InvokeResponse()
        getattr(answer, "return").CopyFrom(encode({"result": result}))
        return answer


def _place(state: dict[str, Any]) -> tuple[str | None, str]:
    metadata = reveal(state.get("metadata")) or {}
    return metadata.get("namespace"), str(metadata.get("name", ""))
