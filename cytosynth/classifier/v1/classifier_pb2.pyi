import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PriorSource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIOR_SOURCE_UNSPECIFIED: _ClassVar[PriorSource]
    PRIOR_SOURCE_TRAINING: _ClassVar[PriorSource]
    PRIOR_SOURCE_REQUEST: _ClassVar[PriorSource]
    PRIOR_SOURCE_ESTIMATED: _ClassVar[PriorSource]

class ReviewReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REVIEW_REASON_UNSPECIFIED: _ClassVar[ReviewReason]
    REVIEW_REASON_NOT_A_CELL: _ClassVar[ReviewReason]
    REVIEW_REASON_BLURRED: _ClassVar[ReviewReason]
    REVIEW_REASON_EXPOSURE: _ClassVar[ReviewReason]
    REVIEW_REASON_UNKNOWN_CLASS: _ClassVar[ReviewReason]
    REVIEW_REASON_LARGE_SET: _ClassVar[ReviewReason]
    REVIEW_REASON_NEAR_BOUNDARY: _ClassVar[ReviewReason]
PRIOR_SOURCE_UNSPECIFIED: PriorSource
PRIOR_SOURCE_TRAINING: PriorSource
PRIOR_SOURCE_REQUEST: PriorSource
PRIOR_SOURCE_ESTIMATED: PriorSource
REVIEW_REASON_UNSPECIFIED: ReviewReason
REVIEW_REASON_NOT_A_CELL: ReviewReason
REVIEW_REASON_BLURRED: ReviewReason
REVIEW_REASON_EXPOSURE: ReviewReason
REVIEW_REASON_UNKNOWN_CLASS: ReviewReason
REVIEW_REASON_LARGE_SET: ReviewReason
REVIEW_REASON_NEAR_BOUNDARY: ReviewReason

class Model(_message.Message):
    __slots__ = ("name", "architecture", "class_ids", "create_time", "metrics", "manifest_digest", "aliases", "answers")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    CLASS_IDS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    name: str
    architecture: str
    class_ids: _containers.RepeatedScalarFieldContainer[str]
    create_time: _timestamp_pb2.Timestamp
    metrics: _containers.ScalarMap[str, float]
    manifest_digest: str
    aliases: _containers.RepeatedScalarFieldContainer[str]
    answers: AnswerSupport
    def __init__(self, name: _Optional[str] = ..., architecture: _Optional[str] = ..., class_ids: _Optional[_Iterable[str]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., metrics: _Optional[_Mapping[str, float]] = ..., manifest_digest: _Optional[str] = ..., aliases: _Optional[_Iterable[str]] = ..., answers: _Optional[_Union[AnswerSupport, _Mapping]] = ...) -> None: ...

class AnswerSupport(_message.Message):
    __slots__ = ("calibrated", "conformal", "out_of_distribution", "saliency", "training_priors")
    class TrainingPriorsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    CALIBRATED_FIELD_NUMBER: _ClassVar[int]
    CONFORMAL_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_DISTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    SALIENCY_FIELD_NUMBER: _ClassVar[int]
    TRAINING_PRIORS_FIELD_NUMBER: _ClassVar[int]
    calibrated: bool
    conformal: bool
    out_of_distribution: bool
    saliency: bool
    training_priors: _containers.ScalarMap[str, float]
    def __init__(self, calibrated: _Optional[bool] = ..., conformal: _Optional[bool] = ..., out_of_distribution: _Optional[bool] = ..., saliency: _Optional[bool] = ..., training_priors: _Optional[_Mapping[str, float]] = ...) -> None: ...

class AnswerOptions(_message.Message):
    __slots__ = ("class_priors", "estimate_priors", "coverage", "top_k", "saliency", "answer_each")
    class ClassPriorsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    CLASS_PRIORS_FIELD_NUMBER: _ClassVar[int]
    ESTIMATE_PRIORS_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    SALIENCY_FIELD_NUMBER: _ClassVar[int]
    ANSWER_EACH_FIELD_NUMBER: _ClassVar[int]
    class_priors: _containers.ScalarMap[str, float]
    estimate_priors: bool
    coverage: float
    top_k: int
    saliency: bool
    answer_each: bool
    def __init__(self, class_priors: _Optional[_Mapping[str, float]] = ..., estimate_priors: _Optional[bool] = ..., coverage: _Optional[float] = ..., top_k: _Optional[int] = ..., saliency: _Optional[bool] = ..., answer_each: _Optional[bool] = ...) -> None: ...

class ClassProbability(_message.Message):
    __slots__ = ("class_id", "probability")
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    class_id: str
    probability: float
    def __init__(self, class_id: _Optional[str] = ..., probability: _Optional[float] = ...) -> None: ...

class Classification(_message.Message):
    __slots__ = ("class_id", "probabilities", "status", "prediction_set", "out_of_distribution_score", "needs_review", "review_reasons", "saliency_png", "image_sha256", "notices")
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_SET_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_DISTRIBUTION_SCORE_FIELD_NUMBER: _ClassVar[int]
    NEEDS_REVIEW_FIELD_NUMBER: _ClassVar[int]
    REVIEW_REASONS_FIELD_NUMBER: _ClassVar[int]
    SALIENCY_PNG_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SHA256_FIELD_NUMBER: _ClassVar[int]
    NOTICES_FIELD_NUMBER: _ClassVar[int]
    class_id: str
    probabilities: _containers.RepeatedCompositeFieldContainer[ClassProbability]
    status: _status_pb2.Status
    prediction_set: _containers.RepeatedScalarFieldContainer[str]
    out_of_distribution_score: float
    needs_review: bool
    review_reasons: _containers.RepeatedScalarFieldContainer[ReviewReason]
    saliency_png: bytes
    image_sha256: str
    notices: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, class_id: _Optional[str] = ..., probabilities: _Optional[_Iterable[_Union[ClassProbability, _Mapping]]] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., prediction_set: _Optional[_Iterable[str]] = ..., out_of_distribution_score: _Optional[float] = ..., needs_review: _Optional[bool] = ..., review_reasons: _Optional[_Iterable[_Union[ReviewReason, str]]] = ..., saliency_png: _Optional[bytes] = ..., image_sha256: _Optional[str] = ..., notices: _Optional[_Iterable[str]] = ...) -> None: ...

class AnswerContext(_message.Message):
    __slots__ = ("manifest_digest", "request_id", "calibrated", "conformal", "coverage", "prior_source", "class_priors", "runtime")
    class ClassPriorsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CALIBRATED_FIELD_NUMBER: _ClassVar[int]
    CONFORMAL_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    PRIOR_SOURCE_FIELD_NUMBER: _ClassVar[int]
    CLASS_PRIORS_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    manifest_digest: str
    request_id: str
    calibrated: bool
    conformal: bool
    coverage: float
    prior_source: PriorSource
    class_priors: _containers.ScalarMap[str, float]
    runtime: str
    def __init__(self, manifest_digest: _Optional[str] = ..., request_id: _Optional[str] = ..., calibrated: _Optional[bool] = ..., conformal: _Optional[bool] = ..., coverage: _Optional[float] = ..., prior_source: _Optional[_Union[PriorSource, str]] = ..., class_priors: _Optional[_Mapping[str, float]] = ..., runtime: _Optional[str] = ...) -> None: ...

class ClassifyRequest(_message.Message):
    __slots__ = ("model", "images", "options")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    images: _containers.RepeatedScalarFieldContainer[bytes]
    options: AnswerOptions
    def __init__(self, model: _Optional[str] = ..., images: _Optional[_Iterable[bytes]] = ..., options: _Optional[_Union[AnswerOptions, _Mapping]] = ...) -> None: ...

class ClassifyResponse(_message.Message):
    __slots__ = ("model", "classifications", "context")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CLASSIFICATIONS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    model: str
    classifications: _containers.RepeatedCompositeFieldContainer[Classification]
    context: AnswerContext
    def __init__(self, model: _Optional[str] = ..., classifications: _Optional[_Iterable[_Union[Classification, _Mapping]]] = ..., context: _Optional[_Union[AnswerContext, _Mapping]] = ...) -> None: ...

class ClassifyStreamRequest(_message.Message):
    __slots__ = ("model", "image", "options")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    image: bytes
    options: AnswerOptions
    def __init__(self, model: _Optional[str] = ..., image: _Optional[bytes] = ..., options: _Optional[_Union[AnswerOptions, _Mapping]] = ...) -> None: ...

class ClassifyStreamResponse(_message.Message):
    __slots__ = ("model", "classification", "context")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CLASSIFICATION_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    model: str
    classification: Classification
    context: AnswerContext
    def __init__(self, model: _Optional[str] = ..., classification: _Optional[_Union[Classification, _Mapping]] = ..., context: _Optional[_Union[AnswerContext, _Mapping]] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models", "next_page_token")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    next_page_token: str
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class Alias(_message.Message):
    __slots__ = ("name", "model", "previous_model", "update_time")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_MODEL_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    model: str
    previous_model: str
    update_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., model: _Optional[str] = ..., previous_model: _Optional[str] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class SetAliasRequest(_message.Message):
    __slots__ = ("name", "model")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    name: str
    model: str
    def __init__(self, name: _Optional[str] = ..., model: _Optional[str] = ...) -> None: ...

class SetAliasResponse(_message.Message):
    __slots__ = ("alias",)
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    alias: Alias
    def __init__(self, alias: _Optional[_Union[Alias, _Mapping]] = ...) -> None: ...

class RollbackAliasRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class RollbackAliasResponse(_message.Message):
    __slots__ = ("alias",)
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    alias: Alias
    def __init__(self, alias: _Optional[_Union[Alias, _Mapping]] = ...) -> None: ...

class DeleteAliasRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteAliasResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListAliasesRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListAliasesResponse(_message.Message):
    __slots__ = ("aliases", "next_page_token")
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    aliases: _containers.RepeatedCompositeFieldContainer[Alias]
    next_page_token: str
    def __init__(self, aliases: _Optional[_Iterable[_Union[Alias, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
