"""Create, read, update and delete one object. Everything here talks to a reachable cluster."""

from __future__ import annotations

import base64
import re
import threading
import time
from collections.abc import Mapping
from typing import Any

from local.plugins.kubernetes import naming
from local.plugins.kubernetes.client import ApiError, Client, NoSuchKindError
from local.plugins.kubernetes.drift import drifted_inputs, imported_inputs, projected_inputs
from local.plugins.kubernetes.naming import GroupVersionKind
from local.plugins.kubernetes.request import RefusedError, Request
from local.plugins.kubernetes.settings import ProviderSettings
from local.plugins.kubernetes.shape import elsewhere, expected, object_id, outputs, without_null
from local.plugins.kubernetes.values import (
    has_unknown,
    mark_secrets,
    reveal,
    without_unknown,
)
from local.plugins.kubernetes.waiting import (
    CHECKS,
    DEFAULT_SECONDS,
    Busy,
    Check,
    Failed,
    NotReadyError,
    Wait,
    asked_for,
)

# Refusals that pass by themselves: what the server needs is on its way. Pattern -> seconds.
PASSING = (
    (re.compile(r"error looking up service account|serviceaccount .* not found"), 15.0),
    (re.compile(r"failed calling webhook|no endpoints available for service"), 60.0),
    (re.compile(r"because it is being terminated"), 60.0),
)
NEW_TYPE_SECONDS = 15.0  # between a CRD's Established and the type's first answer
# Refusals of a dry run under another name that hold for the real object too.
OF_SHAPE = re.compile(
    r"unknown field|strict decoding|not declared in schema|Invalid value|Required value"
    r"|Unsupported value|expected .*, got|cannot unmarshal|Forbidden: may not be used",
)
CONFLICT_HELP = (
    "; another controller owns these fields: drop them from the program, or set the annotation"
    f' {naming.PATCH_FORCE}: "true" to take them over'
)


class Objects:
    """Operations on the objects of one cluster."""

    def __init__(
        self, client: Client, settings: ProviderSettings, cancelled: threading.Event
    ) -> None:
        self.client = client
        self._settings = settings
        self._cancelled = cancelled

    # Previews: the server is asked, nothing is written.

    def preview_create(self, request: Request, *, replacing: bool) -> dict[str, Any]:
        """The outputs to expect, server-made ones unknown; raises RefusedError."""
        gvk = request.gvk
        try:
            namespaced = self.client.endpoint(gvk).namespaced
        except NoSuchKindError as error:
            request.log("warning", f"{error}; unless this update installs it, the create will fail")
            return expected(request.inputs, request.inputs)
        if has_unknown(request.inputs):
            self._check_shape(request)
            return expected(request.inputs, request.inputs)
        obj = self.prepared(request)
        if replacing:
            self._check_shape(request)
            return expected(obj, request.inputs)
        if request.patch:
            self._must_exist(request, obj)
        else:
            self._must_be_free(request, obj)
        try:
            live = self._write(request, obj, dry_run=True)
        except ApiError as error:
            if namespaced and error.status == 404 and error.details.get("kind") == "namespaces":
                self._check_shape(request)  # the namespace is yet to come
                return expected(obj, request.inputs)
            raise self.refused(request, obj, error, "would not be created") from error
        return expected(outputs(live, request), request.inputs)

    def preview_update(self, request: Request) -> dict[str, Any]:
        """The outputs to expect; raises RefusedError."""
        if has_unknown(request.inputs):
            self._check_shape(request)
            return mark_secrets({**request.state, **request.inputs}, request.inputs)
        obj = self.prepared(request)
        try:
            live = self._write(request, obj, dry_run=True)
        except (ApiError, NoSuchKindError) as error:
            raise self.refused(request, obj, error, "would not be updated") from error
        return outputs(live, request)

    def _check_shape(self, request: Request) -> None:
        """Ask the server whether the known part is well-formed, under a name nobody has."""
        obj = self.prepared(request, without_unknown(request.inputs))
        metadata = elsewhere(request.urn, obj)
        if self.client.endpoint(request.gvk).namespaced:
            metadata["namespace"] = "default"
        try:
            self.client.apply(
                request.gvk,
                {**obj, "metadata": metadata},
                manager=request.manager,
                dry_run=True,
            )
        except ApiError as error:
            incomplete = has_unknown(request.inputs) and "Required value" in error.message
            named = any(c.get("field") == "metadata.name" for c in error.causes)
            if incomplete or named or not OF_SHAPE.search(error.message):
                request.log("debug", f"not checked by the server at preview: {error.message}")
                return
            raise self.refused(request, obj, error, "would not be created") from error

    # Changes.

    def create(self, request: Request) -> tuple[str, dict[str, Any]]:
        """(id, live object). Raises RefusedError, and NotReadyError once the object exists."""
        obj = self.prepared(request)
        try:
            if request.patch:
                self._must_exist(request, obj)
            else:
                self._must_be_free(request, obj)
            live = self._persist(request, obj)
        except (ApiError, NoSuchKindError) as error:
            raise self.refused(request, obj, error, "was not created") from error
        return object_id(live), self._await(request, live)

    def update(self, request: Request) -> dict[str, Any]:
        """The live object. Raises RefusedError and NotReadyError."""
        obj = self.prepared(request)
        try:
            live = self._persist(request, obj)
        except (ApiError, NoSuchKindError) as error:
            raise self.refused(request, obj, error, "was not updated") from error
        return self._await(request, live)

    def delete(self, request: Request, namespace: str | None, name: str) -> None:
        """Delete and wait until it is gone; a patch only gives its fields back."""
        gvk = request.gvk
        obj: dict[str, Any] = {
            "apiVersion": gvk.api_version,
            "kind": gvk.kind,
            "metadata": {"name": name} | ({"namespace": namespace} if namespace else {}),
        }
        try:
            if request.patch:
                if self.client.get(gvk, namespace, name) is not None:
                    self.client.apply(gvk, obj, manager=request.manager, force=True)
                return
            propagation = request.annotation(naming.DELETION_PROPAGATION) or "Foreground"
            if not self.client.delete(
                gvk, namespace, name, propagation=propagation[:1].upper() + propagation[1:]
            ):
                return
        except (ApiError, NoSuchKindError) as error:
            raise self.refused(request, obj, error, "was not deleted") from error
        if not naming.is_true(request.annotation(naming.SKIP_AWAIT)):
            self._waiter(request).until_gone(self.client, gvk, namespace, name)

    # Reading.

    def read(
        self, request: Request, namespace: str | None, name: str
    ) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """(live object, inputs that describe it), or None when it is gone."""
        gvk = request.gvk
        try:
            if namespace is None and self.client.endpoint(gvk).namespaced:
                namespace = self.client.cluster.namespace
        except NoSuchKindError:
            return None
        live = self.client.get(gvk, namespace, name)
        if live is None:
            return None
        if not request.inputs:
            return live, imported_inputs(live)
        obj = self.prepared(request)
        try:
            applied, _ = self.client.apply(
                gvk, obj, manager=request.manager, force=True, dry_run=True
            )
        except ApiError as error:
            # An immutable field drifted (someone made the object anew), or the server is older
            # than the inputs: compare what can be compared.
            request.log("debug", f"refresh without a dry run: {error.message}")
            return live, projected_inputs(request.inputs, live, self._made_of(request, obj))
        return live, drifted_inputs(request.inputs, live, applied)

    def _made_of(self, request: Request, obj: dict[str, Any]) -> dict[str, Any] | None:
        """What the server would make of an object under a name nobody has; None when it refuses."""
        try:
            made, _ = self.client.apply(
                request.gvk,
                {**obj, "metadata": elsewhere(request.urn, obj)},
                manager=request.manager,
                dry_run=True,
            )
        except ApiError as error:
            request.log("debug", f"nor elsewhere: {error.message}")
            return None
        return {**made, "metadata": {**made["metadata"], "name": obj["metadata"].get("name")}}

    def unready(self, request: Request, live: dict[str, Any]) -> list[str]:
        """Why an object that should be ready is not; empty when it is."""
        check = self._check_for(request)
        if check is None:
            return []
        state = check(self.client, live)
        if isinstance(state, Failed):
            return [state.reason]
        return [state.message] if isinstance(state, Busy) else []

    def refusal(self, request: Request) -> ApiError | None:
        """The server's refusal of an update as it would be made now; None when it accepts."""
        try:
            self._write(request, self.prepared(request), dry_run=True)
        except ApiError as error:
            return error
        except NoSuchKindError:
            return None
        return None

    # Parts.

    def prepared(self, request: Request, inputs: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The object as the API server gets it."""
        obj = without_null(reveal(dict(request.inputs if inputs is None else inputs)))
        gvk = request.gvk
        obj["apiVersion"], obj["kind"] = gvk.api_version, gvk.kind
        metadata: dict[str, Any] = dict(obj.get("metadata") or {})
        try:
            namespaced = self.client.endpoint(gvk).namespaced
        except NoSuchKindError:
            namespaced = False
        if namespaced and not metadata.get("namespace"):
            metadata["namespace"] = self.client.cluster.namespace
        obj["metadata"] = metadata
        if gvk == GroupVersionKind("", "v1", "Secret") and "stringData" in obj:
            # stringData is write-only and nobody owns its fields: a key that leaves it would stay.
            data = dict(obj.get("data") or {})
            for name, text in (obj.pop("stringData") or {}).items():
                data[name] = base64.b64encode(str(text).encode()).decode()
            obj["data"] = data
        return obj

    def refused(
        self, request: Request, obj: Mapping[str, Any], error: Exception, what: str
    ) -> RefusedError:
        metadata = obj.get("metadata") or {}
        name = naming.object_id(
            metadata.get("namespace"), metadata.get("name") or metadata.get("generateName") or "?"
        )
        message = str(error).replace("\n", " ")
        if isinstance(error, ApiError) and error.status == 409 and "conflict" in message:
            message += CONFLICT_HELP
        return RefusedError(f"{request.gvk.kind} {name} {what}: {message}")

    def _must_exist(self, request: Request, obj: Mapping[str, Any]) -> None:
        metadata = obj["metadata"]
        if self.client.get(request.gvk, metadata.get("namespace"), metadata["name"]) is None:
            name = naming.object_id(metadata.get("namespace"), metadata["name"])
            raise RefusedError(f"{request.gvk.kind} {name} does not exist; a patch needs it to")

    def _must_be_free(self, request: Request, obj: Mapping[str, Any]) -> None:
        """Refuse to take over an object of somebody else; wait for one that is being deleted."""
        metadata = obj["metadata"]
        if self._settings.upsert_existing_objects or not metadata.get("name"):
            return
        namespace, name = metadata.get("namespace"), metadata["name"]
        live = self.client.get(request.gvk, namespace, name)
        if live is None:
            return
        if live["metadata"].get("deletionTimestamp"):
            try:
                self._waiter(request).until_gone(self.client, request.gvk, namespace, name)
            except NotReadyError as error:
                raise RefusedError(
                    f"{request.gvk.kind} {naming.object_id(namespace, name)} of an earlier time is"
                    f" still being deleted: {error}"
                ) from error
        elif not naming.owned_by(live, request.manager):
            raise RefusedError(
                f"{request.gvk.kind} {naming.object_id(namespace, name)} already exists and this"
                " resource did not make it; import it, choose another name, or set"
                " upsertExistingObjects on the provider"
            )

    def _persist(self, request: Request, obj: dict[str, Any]) -> dict[str, Any]:
        """Write, and again while the refusal is one that passes."""
        start, pause, told = time.monotonic(), 0.2, False
        while True:
            try:
                return self._write(request, obj, dry_run=False)
            except NoSuchKindError:
                patience = NEW_TYPE_SECONDS
                if time.monotonic() - start > patience:
                    raise
            except ApiError as error:
                patience = next((s for test, s in PASSING if test.search(error.message)), 0.0)
                if time.monotonic() - start > patience:
                    raise
                if not told:
                    request.log("info", f"Retrying: {error.message}")
                    told = True
            if self._cancelled.wait(pause):
                raise RefusedError(f"{request.gvk.kind}: cancelled before it was written")
            pause = min(pause * 1.5, 2.0)

    def _write(self, request: Request, obj: dict[str, Any], *, dry_run: bool) -> dict[str, Any]:
        metadata = obj["metadata"]
        if not metadata.get("name") and metadata.get("generateName"):
            known = (request.state.get("metadata") or {}).get("name")
            if not known:
                live, warnings = self.client.create(
                    request.gvk, obj, manager=request.manager, dry_run=dry_run
                )
                self._warn(request, warnings)
                return live
            plain = {name: value for name, value in metadata.items() if name != "generateName"}
            obj = {**obj, "metadata": {**plain, "name": known}}
        wish = request.annotation(naming.PATCH_FORCE)
        force = naming.is_true(wish) if wish is not None else self._settings.enable_patch_force
        live, warnings = self.client.apply(
            request.gvk, obj, manager=request.manager, force=force, dry_run=dry_run
        )
        self._warn(request, warnings)
        return live

    def _warn(self, request: Request, warnings: list[str]) -> None:
        for text in warnings:
            if not (self._settings.suppress_deprecation_warnings and "deprecated" in text):
                request.log("warning", text)

    def _check_for(self, request: Request) -> Check | None:
        if request.patch or naming.is_true(request.annotation(naming.SKIP_AWAIT)):
            return None
        asked = request.annotation(naming.WAIT_FOR)
        if asked is not None:
            try:
                return asked_for(asked)
            except ValueError as error:
                raise RefusedError(str(error)) from error
        return CHECKS.get((request.gvk.group, request.gvk.kind))

    def _await(self, request: Request, live: dict[str, Any]) -> dict[str, Any]:
        check = self._check_for(request)
        if check is None:
            return live
        try:
            return self._waiter(request).until_ready(self.client, request.gvk, live, check)
        finally:
            if request.gvk.kind == "CustomResourceDefinition":
                self.client.forget_types()

    def _waiter(self, request: Request) -> Wait:
        seconds = request.seconds
        if not seconds:
            text = request.annotation(naming.TIMEOUT_SECONDS) or ""
            try:
                seconds = float(text) if text else DEFAULT_SECONDS
            except ValueError as error:
                raise RefusedError(
                    f"the annotation {naming.TIMEOUT_SECONDS} is {text!r}; give seconds"
                ) from error
        return Wait(
            seconds=seconds,
            report=lambda line: request.log("info", line),
            cancelled=self._cancelled,
        )
