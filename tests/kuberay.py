"""The part of KubeRay's API that `rayjob.yaml` uses, as closed schemas: a misspelt key is an error.

The names and types are those of `ray-operator/apis/ray/v1/rayjob_types.go` and `raycluster_types.go` of
https://github.com/ray-project/kuberay (commits 0057210 and 026f143, and release v1.5.1 for `authOptions`),
and of Kubernetes' core/v1
(https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

Quantity = Annotated[str, Field(pattern=r"^[0-9]+([KMGT]i|m)?$")]


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)


class Metadata(Closed):
    generate_name: Annotated[str, Field(pattern=r"^[a-z][a-z-]*-$")]


class Capabilities(Closed):
    drop: list[str]


class ContainerSecurity(Closed):
    allow_privilege_escalation: bool
    capabilities: Capabilities


class SeccompProfile(Closed):
    type: Literal["RuntimeDefault", "Unconfined", "Localhost"]


class PodSecurity(Closed):
    run_as_non_root: bool
    run_as_user: int
    run_as_group: int
    fs_group: int
    seccomp_profile: SeccompProfile


class EnvVar(Closed):
    name: str
    value: str


class Resources(Closed):
    requests: dict[Literal["cpu", "memory", "nvidia.com/gpu"], Quantity]
    limits: dict[Literal["cpu", "memory", "nvidia.com/gpu"], Quantity]


class VolumeMount(Closed):
    name: str
    mount_path: str
    read_only: bool = False


class Container(Closed):
    name: str
    image: str
    env: list[EnvVar] = []
    security_context: ContainerSecurity
    resources: Resources
    volume_mounts: list[VolumeMount]


class Claim(Closed):
    claim_name: str
    read_only: bool = False


class ConfigMap(Closed):
    name: str


class EmptyDir(Closed):
    medium: Literal["", "Memory"]
    size_limit: Quantity


class Volume(Closed):
    name: str
    persistent_volume_claim: Claim | None = None
    config_map: ConfigMap | None = None
    empty_dir: EmptyDir | None = None


class PodSpec(Closed):
    automount_service_account_token: bool
    termination_grace_period_seconds: int
    security_context: PodSecurity
    containers: list[Container]
    volumes: list[Volume]


class PodTemplate(Closed):
    spec: PodSpec


class HeadGroup(Closed):
    ray_start_params: dict[str, str]
    template: PodTemplate


class WorkerGroup(Closed):
    group_name: str
    replicas: int
    min_replicas: int
    max_replicas: int
    ray_start_params: dict[str, str]
    template: PodTemplate


class AuthOptions(Closed):
    mode: Literal["disabled", "token"]


class RayClusterSpec(Closed):
    ray_version: str
    auth_options: AuthOptions
    head_group_spec: HeadGroup
    worker_group_specs: list[WorkerGroup]

    @property
    def groups(self) -> list[HeadGroup | WorkerGroup]:
        return [self.head_group_spec, *self.worker_group_specs]


class SubmitterConfig(Closed):
    backoff_limit: int


class RayJobSpec(Closed):
    entrypoint: str
    submission_mode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode"]
    backoff_limit: int
    submitter_config: SubmitterConfig
    active_deadline_seconds: Annotated[int, Field(gt=0)]
    shutdown_after_job_finishes: bool
    ttl_seconds_after_finished: int
    ray_cluster_spec: RayClusterSpec


class RayJob(Closed):
    api_version: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: RayJobSpec


def parse_ray_job(data: Any) -> RayJob:
    """Check a parsed file."""
    return RayJob.model_validate(data)
