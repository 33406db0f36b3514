"""Typed Python client of the Cytosynth services.

Research use only; not a medical device.
"""

from cytosynth.client.all_services import Client, tls_credentials
from cytosynth.client.classifier import ClassifierClient
from cytosynth.client.connection import DEFAULT_ADDRESS
from cytosynth.client.errors import CytosynthError, FieldViolation, JobFailed
from cytosynth.client.generator import Capabilities, GeneratorClient, SyntheticImage
from cytosynth.client.image_tree import ImageFile, ImageTree, read_image_tree
from cytosynth.client.records import (
    Adapter,
    Alias,
    AnswerContext,
    Classification,
    Classifier,
    Dataset,
    DatasetClass,
    DeletionProof,
    Job,
    Model,
    Progress,
    Report,
    ReportArm,
    Synthetic,
)
from cytosynth.client.settings import (
    AdapterSettings,
    AnswerOptions,
    ClassifierSettings,
    SamplerSettings,
    SplitSettings,
    StudySettings,
    SynthesisSettings,
    SyntheticSettings,
)
from cytosynth.client.synthesis_folder import SynthesisFolder
from cytosynth.client.trainer.client import TrainerClient
from cytosynth.client.trainer.jobs import JobHandle

__all__ = [
    "DEFAULT_ADDRESS",
    "Adapter",
    "AdapterSettings",
    "Alias",
    "AnswerContext",
    "AnswerOptions",
    "Capabilities",
    "Classification",
    "Classifier",
    "ClassifierClient",
    "ClassifierSettings",
    "Client",
    "CytosynthError",
    "Dataset",
    "DatasetClass",
    "DeletionProof",
    "FieldViolation",
    "GeneratorClient",
    "ImageFile",
    "ImageTree",
    "Job",
    "JobFailed",
    "JobHandle",
    "Model",
    "Progress",
    "Report",
    "ReportArm",
    "SamplerSettings",
    "SplitSettings",
    "StudySettings",
    "SynthesisSettings",
    "Synthetic",
    "SyntheticImage",
    "SyntheticSettings",
    "SynthesisFolder",
    "TrainerClient",
    "read_image_tree",
    "tls_credentials",
]
