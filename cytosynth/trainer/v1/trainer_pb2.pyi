import datetime

from cytosynth.common.v1 import job_pb2 as _job_pb2
from cytosynth.generator.v1 import generator_pb2 as _generator_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SplitSpec(_message.Message):
    __slots__ = ("shots", "class_shots", "max_test_per_class", "seed")
    class ClassShotsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    SHOTS_FIELD_NUMBER: _ClassVar[int]
    CLASS_SHOTS_FIELD_NUMBER: _ClassVar[int]
    MAX_TEST_PER_CLASS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    shots: int
    class_shots: _containers.ScalarMap[str, int]
    max_test_per_class: int
    seed: int
    def __init__(self, shots: _Optional[int] = ..., class_shots: _Optional[_Mapping[str, int]] = ..., max_test_per_class: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class Dataset(_message.Message):
    __slots__ = ("name", "display_name", "create_time", "classes", "split_digest", "notices", "center_crop")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    SPLIT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    NOTICES_FIELD_NUMBER: _ClassVar[int]
    CENTER_CROP_FIELD_NUMBER: _ClassVar[int]
    name: str
    display_name: str
    create_time: _timestamp_pb2.Timestamp
    classes: _containers.RepeatedCompositeFieldContainer[DatasetClass]
    split_digest: str
    notices: _containers.RepeatedScalarFieldContainer[str]
    center_crop: float
    def __init__(self, name: _Optional[str] = ..., display_name: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., classes: _Optional[_Iterable[_Union[DatasetClass, _Mapping]]] = ..., split_digest: _Optional[str] = ..., notices: _Optional[_Iterable[str]] = ..., center_crop: _Optional[float] = ...) -> None: ...

class DatasetClass(_message.Message):
    __slots__ = ("class_id", "num_images", "num_train", "num_test", "left_out_reason")
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    NUM_IMAGES_FIELD_NUMBER: _ClassVar[int]
    NUM_TRAIN_FIELD_NUMBER: _ClassVar[int]
    NUM_TEST_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_REASON_FIELD_NUMBER: _ClassVar[int]
    class_id: str
    num_images: int
    num_train: int
    num_test: int
    left_out_reason: str
    def __init__(self, class_id: _Optional[str] = ..., num_images: _Optional[int] = ..., num_train: _Optional[int] = ..., num_test: _Optional[int] = ..., left_out_reason: _Optional[str] = ...) -> None: ...

class DatasetHeader(_message.Message):
    __slots__ = ("display_name", "split", "center_crop", "idempotency_key")
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    CENTER_CROP_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    display_name: str
    split: SplitSpec
    center_crop: float
    idempotency_key: str
    def __init__(self, display_name: _Optional[str] = ..., split: _Optional[_Union[SplitSpec, _Mapping]] = ..., center_crop: _Optional[float] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class DatasetImage(_message.Message):
    __slots__ = ("class_id", "file_name", "patient_id", "data")
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    FILE_NAME_FIELD_NUMBER: _ClassVar[int]
    PATIENT_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    class_id: str
    file_name: str
    patient_id: str
    data: bytes
    def __init__(self, class_id: _Optional[str] = ..., file_name: _Optional[str] = ..., patient_id: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class DatasetCommit(_message.Message):
    __slots__ = ("num_images",)
    NUM_IMAGES_FIELD_NUMBER: _ClassVar[int]
    num_images: int
    def __init__(self, num_images: _Optional[int] = ...) -> None: ...

class UploadDatasetRequest(_message.Message):
    __slots__ = ("header", "image", "commit")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    header: DatasetHeader
    image: DatasetImage
    commit: DatasetCommit
    def __init__(self, header: _Optional[_Union[DatasetHeader, _Mapping]] = ..., image: _Optional[_Union[DatasetImage, _Mapping]] = ..., commit: _Optional[_Union[DatasetCommit, _Mapping]] = ...) -> None: ...

class UploadDatasetResponse(_message.Message):
    __slots__ = ("dataset",)
    DATASET_FIELD_NUMBER: _ClassVar[int]
    dataset: Dataset
    def __init__(self, dataset: _Optional[_Union[Dataset, _Mapping]] = ...) -> None: ...

class ImportDatasetRequest(_message.Message):
    __slots__ = ("uri", "header")
    URI_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    uri: str
    header: DatasetHeader
    def __init__(self, uri: _Optional[str] = ..., header: _Optional[_Union[DatasetHeader, _Mapping]] = ...) -> None: ...

class ImportDatasetResponse(_message.Message):
    __slots__ = ("dataset",)
    DATASET_FIELD_NUMBER: _ClassVar[int]
    dataset: Dataset
    def __init__(self, dataset: _Optional[_Union[Dataset, _Mapping]] = ...) -> None: ...

class GetDatasetRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetDatasetResponse(_message.Message):
    __slots__ = ("dataset",)
    DATASET_FIELD_NUMBER: _ClassVar[int]
    dataset: Dataset
    def __init__(self, dataset: _Optional[_Union[Dataset, _Mapping]] = ...) -> None: ...

class ListDatasetsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListDatasetsResponse(_message.Message):
    __slots__ = ("datasets",)
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    datasets: _containers.RepeatedCompositeFieldContainer[Dataset]
    def __init__(self, datasets: _Optional[_Iterable[_Union[Dataset, _Mapping]]] = ...) -> None: ...

class DeleteDatasetRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteDatasetResponse(_message.Message):
    __slots__ = ("proof",)
    PROOF_FIELD_NUMBER: _ClassVar[int]
    proof: DeletionProof
    def __init__(self, proof: _Optional[_Union[DeletionProof, _Mapping]] = ...) -> None: ...

class DeletionProof(_message.Message):
    __slots__ = ("name", "num_objects", "digest", "delete_time")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUM_OBJECTS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    DELETE_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    num_objects: int
    digest: str
    delete_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., num_objects: _Optional[int] = ..., digest: _Optional[str] = ..., delete_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class AdapterSettings(_message.Message):
    __slots__ = ("preset", "rank", "alpha", "num_steps", "batch_size", "learning_rate", "per_class", "seed")
    PRESET_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    PER_CLASS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    preset: str
    rank: int
    alpha: float
    num_steps: int
    batch_size: int
    learning_rate: float
    per_class: bool
    seed: int
    def __init__(self, preset: _Optional[str] = ..., rank: _Optional[int] = ..., alpha: _Optional[float] = ..., num_steps: _Optional[int] = ..., batch_size: _Optional[int] = ..., learning_rate: _Optional[float] = ..., per_class: _Optional[bool] = ..., seed: _Optional[int] = ...) -> None: ...

class Adapter(_message.Message):
    __slots__ = ("name", "base", "dataset", "class_ids", "create_time", "settings", "metrics", "manifest_digest")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    CLASS_IDS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    base: str
    dataset: str
    class_ids: _containers.RepeatedScalarFieldContainer[str]
    create_time: _timestamp_pb2.Timestamp
    settings: AdapterSettings
    metrics: _containers.ScalarMap[str, float]
    manifest_digest: str
    def __init__(self, name: _Optional[str] = ..., base: _Optional[str] = ..., dataset: _Optional[str] = ..., class_ids: _Optional[_Iterable[str]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., settings: _Optional[_Union[AdapterSettings, _Mapping]] = ..., metrics: _Optional[_Mapping[str, float]] = ..., manifest_digest: _Optional[str] = ...) -> None: ...

class CreateAdapterRequest(_message.Message):
    __slots__ = ("dataset", "base", "settings", "idempotency_key")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    base: str
    settings: AdapterSettings
    idempotency_key: str
    def __init__(self, dataset: _Optional[str] = ..., base: _Optional[str] = ..., settings: _Optional[_Union[AdapterSettings, _Mapping]] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class CreateAdapterResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

class GetAdapterRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetAdapterResponse(_message.Message):
    __slots__ = ("adapter",)
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    adapter: Adapter
    def __init__(self, adapter: _Optional[_Union[Adapter, _Mapping]] = ...) -> None: ...

class ListAdaptersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListAdaptersResponse(_message.Message):
    __slots__ = ("adapters",)
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    adapters: _containers.RepeatedCompositeFieldContainer[Adapter]
    def __init__(self, adapters: _Optional[_Iterable[_Union[Adapter, _Mapping]]] = ...) -> None: ...

class DeleteAdapterRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteAdapterResponse(_message.Message):
    __slots__ = ("proof",)
    PROOF_FIELD_NUMBER: _ClassVar[int]
    proof: DeletionProof
    def __init__(self, proof: _Optional[_Union[DeletionProof, _Mapping]] = ...) -> None: ...

class SyntheticSpec(_message.Message):
    __slots__ = ("adapter", "num_per_class", "seed", "sampler", "loss_weight")
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    NUM_PER_CLASS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SAMPLER_FIELD_NUMBER: _ClassVar[int]
    LOSS_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    adapter: str
    num_per_class: int
    seed: int
    sampler: _generator_pb2.SamplerSettings
    loss_weight: float
    def __init__(self, adapter: _Optional[str] = ..., num_per_class: _Optional[int] = ..., seed: _Optional[int] = ..., sampler: _Optional[_Union[_generator_pb2.SamplerSettings, _Mapping]] = ..., loss_weight: _Optional[float] = ...) -> None: ...

class ClassifierSettings(_message.Message):
    __slots__ = ("preset", "architecture", "clip_base", "num_steps", "batch_size", "learning_rate", "weight_decay", "image_size", "seed", "resnet_base", "num_calibration_folds")
    PRESET_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    CLIP_BASE_FIELD_NUMBER: _ClassVar[int]
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    RESNET_BASE_FIELD_NUMBER: _ClassVar[int]
    NUM_CALIBRATION_FOLDS_FIELD_NUMBER: _ClassVar[int]
    preset: str
    architecture: str
    clip_base: str
    num_steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    image_size: int
    seed: int
    resnet_base: str
    num_calibration_folds: int
    def __init__(self, preset: _Optional[str] = ..., architecture: _Optional[str] = ..., clip_base: _Optional[str] = ..., num_steps: _Optional[int] = ..., batch_size: _Optional[int] = ..., learning_rate: _Optional[float] = ..., weight_decay: _Optional[float] = ..., image_size: _Optional[int] = ..., seed: _Optional[int] = ..., resnet_base: _Optional[str] = ..., num_calibration_folds: _Optional[int] = ...) -> None: ...

class Classifier(_message.Message):
    __slots__ = ("name", "dataset", "settings", "synthetic", "image_set", "class_ids", "create_time", "metrics", "manifest_digest")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    SYNTHETIC_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SET_FIELD_NUMBER: _ClassVar[int]
    CLASS_IDS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    dataset: str
    settings: ClassifierSettings
    synthetic: SyntheticSpec
    image_set: str
    class_ids: _containers.RepeatedScalarFieldContainer[str]
    create_time: _timestamp_pb2.Timestamp
    metrics: _containers.ScalarMap[str, float]
    manifest_digest: str
    def __init__(self, name: _Optional[str] = ..., dataset: _Optional[str] = ..., settings: _Optional[_Union[ClassifierSettings, _Mapping]] = ..., synthetic: _Optional[_Union[SyntheticSpec, _Mapping]] = ..., image_set: _Optional[str] = ..., class_ids: _Optional[_Iterable[str]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., metrics: _Optional[_Mapping[str, float]] = ..., manifest_digest: _Optional[str] = ...) -> None: ...

class CreateClassifierRequest(_message.Message):
    __slots__ = ("dataset", "settings", "synthetic", "idempotency_key")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    SYNTHETIC_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    settings: ClassifierSettings
    synthetic: SyntheticSpec
    idempotency_key: str
    def __init__(self, dataset: _Optional[str] = ..., settings: _Optional[_Union[ClassifierSettings, _Mapping]] = ..., synthetic: _Optional[_Union[SyntheticSpec, _Mapping]] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class CreateClassifierResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

class GetClassifierRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetClassifierResponse(_message.Message):
    __slots__ = ("classifier",)
    CLASSIFIER_FIELD_NUMBER: _ClassVar[int]
    classifier: Classifier
    def __init__(self, classifier: _Optional[_Union[Classifier, _Mapping]] = ...) -> None: ...

class ListClassifiersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListClassifiersResponse(_message.Message):
    __slots__ = ("classifiers",)
    CLASSIFIERS_FIELD_NUMBER: _ClassVar[int]
    classifiers: _containers.RepeatedCompositeFieldContainer[Classifier]
    def __init__(self, classifiers: _Optional[_Iterable[_Union[Classifier, _Mapping]]] = ...) -> None: ...

class DeleteClassifierRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteClassifierResponse(_message.Message):
    __slots__ = ("proof",)
    PROOF_FIELD_NUMBER: _ClassVar[int]
    proof: DeletionProof
    def __init__(self, proof: _Optional[_Union[DeletionProof, _Mapping]] = ...) -> None: ...

class ReportArm(_message.Message):
    __slots__ = ("model", "arm", "classifier")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    CLASSIFIER_FIELD_NUMBER: _ClassVar[int]
    model: str
    arm: str
    classifier: str
    def __init__(self, model: _Optional[str] = ..., arm: _Optional[str] = ..., classifier: _Optional[str] = ...) -> None: ...

class CreateReportRequest(_message.Message):
    __slots__ = ("dataset", "arms", "title", "phase_seconds", "idempotency_key")
    class PhaseSecondsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    DATASET_FIELD_NUMBER: _ClassVar[int]
    ARMS_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    PHASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    arms: _containers.RepeatedCompositeFieldContainer[ReportArm]
    title: str
    phase_seconds: _containers.ScalarMap[str, float]
    idempotency_key: str
    def __init__(self, dataset: _Optional[str] = ..., arms: _Optional[_Iterable[_Union[ReportArm, _Mapping]]] = ..., title: _Optional[str] = ..., phase_seconds: _Optional[_Mapping[str, float]] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class CreateReportResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

class StudySettings(_message.Message):
    __slots__ = ("preset", "models", "arms", "num_per_class", "num_draws", "shots", "class_shots", "max_test_per_class", "seed", "base", "clip_base", "num_steps", "adapter_steps", "sampler_preset", "loss_weight", "transfer_resnet_base", "transfer_clip_base", "feature_space", "hide_images")
    class ClassShotsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    PRESET_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    ARMS_FIELD_NUMBER: _ClassVar[int]
    NUM_PER_CLASS_FIELD_NUMBER: _ClassVar[int]
    NUM_DRAWS_FIELD_NUMBER: _ClassVar[int]
    SHOTS_FIELD_NUMBER: _ClassVar[int]
    CLASS_SHOTS_FIELD_NUMBER: _ClassVar[int]
    MAX_TEST_PER_CLASS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    CLIP_BASE_FIELD_NUMBER: _ClassVar[int]
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_STEPS_FIELD_NUMBER: _ClassVar[int]
    SAMPLER_PRESET_FIELD_NUMBER: _ClassVar[int]
    LOSS_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_RESNET_BASE_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_CLIP_BASE_FIELD_NUMBER: _ClassVar[int]
    FEATURE_SPACE_FIELD_NUMBER: _ClassVar[int]
    HIDE_IMAGES_FIELD_NUMBER: _ClassVar[int]
    preset: str
    models: _containers.RepeatedScalarFieldContainer[str]
    arms: _containers.RepeatedScalarFieldContainer[str]
    num_per_class: _containers.RepeatedScalarFieldContainer[int]
    num_draws: int
    shots: int
    class_shots: _containers.ScalarMap[str, int]
    max_test_per_class: int
    seed: int
    base: str
    clip_base: str
    num_steps: int
    adapter_steps: int
    sampler_preset: str
    loss_weight: float
    transfer_resnet_base: str
    transfer_clip_base: str
    feature_space: str
    hide_images: bool
    def __init__(self, preset: _Optional[str] = ..., models: _Optional[_Iterable[str]] = ..., arms: _Optional[_Iterable[str]] = ..., num_per_class: _Optional[_Iterable[int]] = ..., num_draws: _Optional[int] = ..., shots: _Optional[int] = ..., class_shots: _Optional[_Mapping[str, int]] = ..., max_test_per_class: _Optional[int] = ..., seed: _Optional[int] = ..., base: _Optional[str] = ..., clip_base: _Optional[str] = ..., num_steps: _Optional[int] = ..., adapter_steps: _Optional[int] = ..., sampler_preset: _Optional[str] = ..., loss_weight: _Optional[float] = ..., transfer_resnet_base: _Optional[str] = ..., transfer_clip_base: _Optional[str] = ..., feature_space: _Optional[str] = ..., hide_images: _Optional[bool] = ...) -> None: ...

class CreateStudyRequest(_message.Message):
    __slots__ = ("dataset", "settings", "title", "idempotency_key")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    settings: StudySettings
    title: str
    idempotency_key: str
    def __init__(self, dataset: _Optional[str] = ..., settings: _Optional[_Union[StudySettings, _Mapping]] = ..., title: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class CreateStudyResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

class Report(_message.Message):
    __slots__ = ("name", "kind", "dataset", "title", "create_time", "manifest_digest")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    dataset: str
    title: str
    create_time: _timestamp_pb2.Timestamp
    manifest_digest: str
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., dataset: _Optional[str] = ..., title: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., manifest_digest: _Optional[str] = ...) -> None: ...

class ListReportsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListReportsResponse(_message.Message):
    __slots__ = ("reports",)
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    reports: _containers.RepeatedCompositeFieldContainer[Report]
    def __init__(self, reports: _Optional[_Iterable[_Union[Report, _Mapping]]] = ...) -> None: ...

class DeleteReportRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteReportResponse(_message.Message):
    __slots__ = ("proof",)
    PROOF_FIELD_NUMBER: _ClassVar[int]
    proof: DeletionProof
    def __init__(self, proof: _Optional[_Union[DeletionProof, _Mapping]] = ...) -> None: ...

class DownloadReportRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DownloadReportResponse(_message.Message):
    __slots__ = ("file_name", "chunk")
    FILE_NAME_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    file_name: str
    chunk: bytes
    def __init__(self, file_name: _Optional[str] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class GetJobRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

class ListJobsRequest(_message.Message):
    __slots__ = ("state", "page_size")
    STATE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    state: _job_pb2.JobState
    page_size: int
    def __init__(self, state: _Optional[_Union[_job_pb2.JobState, str]] = ..., page_size: _Optional[int] = ...) -> None: ...

class ListJobsResponse(_message.Message):
    __slots__ = ("jobs",)
    JOBS_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[_job_pb2.Job]
    def __init__(self, jobs: _Optional[_Iterable[_Union[_job_pb2.Job, _Mapping]]] = ...) -> None: ...

class CancelJobRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class CancelJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

class WatchJobRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class WatchJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...
