from cytosynth.common.v1 import image_pb2 as _image_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_UNSPECIFIED: _ClassVar[Priority]
    PRIORITY_INTERACTIVE: _ClassVar[Priority]
    PRIORITY_BULK: _ClassVar[Priority]
PRIORITY_UNSPECIFIED: Priority
PRIORITY_INTERACTIVE: Priority
PRIORITY_BULK: Priority

class SamplerSettings(_message.Message):
    __slots__ = ("preset", "num_steps", "guidance_scale", "scheduler", "guidance_start", "guidance_stop", "decoder")
    PRESET_FIELD_NUMBER: _ClassVar[int]
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_SCALE_FIELD_NUMBER: _ClassVar[int]
    SCHEDULER_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_START_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_STOP_FIELD_NUMBER: _ClassVar[int]
    DECODER_FIELD_NUMBER: _ClassVar[int]
    preset: str
    num_steps: int
    guidance_scale: float
    scheduler: str
    guidance_start: float
    guidance_stop: float
    decoder: str
    def __init__(self, preset: _Optional[str] = ..., num_steps: _Optional[int] = ..., guidance_scale: _Optional[float] = ..., scheduler: _Optional[str] = ..., guidance_start: _Optional[float] = ..., guidance_stop: _Optional[float] = ..., decoder: _Optional[str] = ...) -> None: ...

class ClassCount(_message.Message):
    __slots__ = ("class_id", "num_images")
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    NUM_IMAGES_FIELD_NUMBER: _ClassVar[int]
    class_id: str
    num_images: int
    def __init__(self, class_id: _Optional[str] = ..., num_images: _Optional[int] = ...) -> None: ...

class SynthesizeRequest(_message.Message):
    __slots__ = ("adapter", "base", "class_counts", "seed", "sampler", "first_index", "image_format", "priority")
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    CLASS_COUNTS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SAMPLER_FIELD_NUMBER: _ClassVar[int]
    FIRST_INDEX_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FORMAT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    adapter: str
    base: str
    class_counts: _containers.RepeatedCompositeFieldContainer[ClassCount]
    seed: int
    sampler: SamplerSettings
    first_index: int
    image_format: _image_pb2.ImageFormat
    priority: Priority
    def __init__(self, adapter: _Optional[str] = ..., base: _Optional[str] = ..., class_counts: _Optional[_Iterable[_Union[ClassCount, _Mapping]]] = ..., seed: _Optional[int] = ..., sampler: _Optional[_Union[SamplerSettings, _Mapping]] = ..., first_index: _Optional[int] = ..., image_format: _Optional[_Union[_image_pb2.ImageFormat, str]] = ..., priority: _Optional[_Union[Priority, str]] = ...) -> None: ...

class SynthesizeResponse(_message.Message):
    __slots__ = ("index", "class_id", "image_seed", "image", "image_format", "width", "height", "manifest_digest", "manifest_json")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SEED_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FORMAT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_JSON_FIELD_NUMBER: _ClassVar[int]
    index: int
    class_id: str
    image_seed: int
    image: bytes
    image_format: _image_pb2.ImageFormat
    width: int
    height: int
    manifest_digest: str
    manifest_json: str
    def __init__(self, index: _Optional[int] = ..., class_id: _Optional[str] = ..., image_seed: _Optional[int] = ..., image: _Optional[bytes] = ..., image_format: _Optional[_Union[_image_pb2.ImageFormat, str]] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., manifest_digest: _Optional[str] = ..., manifest_json: _Optional[str] = ...) -> None: ...

class GetCapabilitiesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetCapabilitiesResponse(_message.Message):
    __slots__ = ("bases", "default_base", "presets", "max_num_images", "batch_size", "image_size", "max_num_interactive_images")
    class PresetsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: SamplerSettings
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[SamplerSettings, _Mapping]] = ...) -> None: ...
    class ImageSizeEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    BASES_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_BASE_FIELD_NUMBER: _ClassVar[int]
    PRESETS_FIELD_NUMBER: _ClassVar[int]
    MAX_NUM_IMAGES_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_NUM_INTERACTIVE_IMAGES_FIELD_NUMBER: _ClassVar[int]
    bases: _containers.RepeatedScalarFieldContainer[str]
    default_base: str
    presets: _containers.MessageMap[str, SamplerSettings]
    max_num_images: int
    batch_size: int
    image_size: _containers.ScalarMap[str, int]
    max_num_interactive_images: int
    def __init__(self, bases: _Optional[_Iterable[str]] = ..., default_base: _Optional[str] = ..., presets: _Optional[_Mapping[str, SamplerSettings]] = ..., max_num_images: _Optional[int] = ..., batch_size: _Optional[int] = ..., image_size: _Optional[_Mapping[str, int]] = ..., max_num_interactive_images: _Optional[int] = ...) -> None: ...
