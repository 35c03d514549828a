"""Kubernetes: the manifests of `k8s/`, applied and operated with kubectl."""

from deploy.platforms.kubernetes.platform import Kubernetes

__all__ = ["Kubernetes"]
