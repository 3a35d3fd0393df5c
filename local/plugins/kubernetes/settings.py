"""The provider's own configuration: `kubernetes.Provider(...)` or `kubernetes:*` in the stack."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from local.plugins.kubernetes.values import Secret, reveal

# What the official provider reads from the environment when the program does not say.
ENVIRONMENT = {
    "deleteUnreachable": "PULUMI_K8S_DELETE_UNREACHABLE",
    "enableConfigMapMutable": "PULUMI_K8S_ENABLE_CONFIGMAP_MUTABLE",
    "enablePatchForce": "PULUMI_K8S_ENABLE_PATCH_FORCE",
    "enableSecretMutable": "PULUMI_K8S_ENABLE_SECRET_MUTABLE",
    "skipUpdateUnreachable": "PULUMI_K8S_SKIP_UPDATE_UNREACHABLE",
    "suppressDeprecationWarnings": "PULUMI_K8S_SUPPRESS_DEPRECATION_WARNINGS",
    "upsertExistingObjects": "PULUMI_K8S_UPSERT_EXISTING_OBJECTS",
}
# Known to the official provider and meaningless or harmless here.
IGNORED = (
    "alwaysRender",
    "helmReleaseSettings",
    "kubeClientSettings",
    "suppressHelmHookWarnings",
    "version",
    "pluginDownloadURL",
    "__internal",
)


class ProviderSettings(BaseModel):
    """Booleans arrive as JSON text, because the engine sends provider configuration as text."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    kubeconfig: str | None = Field(default=None, repr=False)
    context: str | None = None
    cluster: str | None = None
    namespace: str | None = None
    cluster_identifier: str | None = Field(default=None, alias="clusterIdentifier")
    delete_unreachable: bool = Field(default=False, alias="deleteUnreachable")
    skip_update_unreachable: bool = Field(default=False, alias="skipUpdateUnreachable")
    enable_server_side_apply: bool = Field(default=True, alias="enableServerSideApply")
    enable_config_map_mutable: bool = Field(default=False, alias="enableConfigMapMutable")
    enable_secret_mutable: bool = Field(default=False, alias="enableSecretMutable")
    enable_patch_force: bool = Field(default=False, alias="enablePatchForce")
    suppress_deprecation_warnings: bool = Field(default=False, alias="suppressDeprecationWarnings")
    upsert_existing_objects: bool = Field(default=False, alias="upsertExistingObjects")

    @field_validator("enable_server_side_apply")
    @classmethod
    def _always(cls, value: bool) -> bool:
        if not value:
            raise ValueError("this stand-in always uses server-side apply; leave it out or true")
        return value

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> ProviderSettings:
        """Raises ValueError with one line that names the setting and the rule."""
        values: dict[str, Any] = {
            name: text
            for name, variable in ENVIRONMENT.items()
            if (text := os.environ.get(variable))
        }
        for name, value in given.items():
            plain = reveal(value)
            if name in IGNORED or plain is None or plain == "":
                continue
            values[name] = _from_text(plain) if name != "kubeconfig" else plain
        if isinstance(values.get("kubeconfig"), dict):
            values["kubeconfig"] = json.dumps(values["kubeconfig"])
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            place = ".".join(str(each) for each in first["loc"])
            raise ValueError(f"provider setting {place}: {first['msg']}") from error


def _from_text(value: Any) -> Any:
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


def with_secret_kubeconfig(given: Mapping[str, Any]) -> dict[str, Any]:
    """The provider's inputs with the kubeconfig's contents marked secret (a path is not)."""
    result = dict(given)
    value = result.get("kubeconfig")
    if isinstance(value, dict) or (isinstance(value, str) and "\n" in value):
        result["kubeconfig"] = Secret(value)
    return result
