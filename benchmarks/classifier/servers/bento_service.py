"""The service as ``bentoml serve`` imports it."""

from __future__ import annotations

from benchmarks.classifier.servers.bento_ml import build_service

Classifier = build_service()
