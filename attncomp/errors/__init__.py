"""Every error that attncomp raises on purpose: one class per mistake.

`PatternError` and its subclasses point at a place in the text of a pattern; `CallError` and its
subclasses name an argument of a call. All of them derive from `AttncompError`, survive pickling
and carry their parts as attributes, so that tools need not read the message.
"""

from __future__ import annotations

from attncomp.errors.base import AttncompError as AttncompError
from attncomp.errors.base import PatternError as PatternError
from attncomp.errors.call import BackendError as BackendError
from attncomp.errors.call import CacheError as CacheError
from attncomp.errors.call import CallError as CallError
from attncomp.errors.call import HeadGroupError as HeadGroupError
from attncomp.errors.call import MissingTensorError as MissingTensorError
from attncomp.errors.call import OptionError as OptionError
from attncomp.errors.call import TensorDeviceError as TensorDeviceError
from attncomp.errors.call import TensorDtypeError as TensorDtypeError
from attncomp.errors.call import TensorLayoutError as TensorLayoutError
from attncomp.errors.call import TensorShapeError as TensorShapeError
from attncomp.errors.call import UnknownTensorError as UnknownTensorError
from attncomp.errors.call import VerificationError as VerificationError
from attncomp.errors.files import BoundError as BoundError
from attncomp.errors.files import CyclicImportError as CyclicImportError
from attncomp.errors.files import DuplicateNameError as DuplicateNameError
from attncomp.errors.files import ExampleError as ExampleError
from attncomp.errors.files import NoDefinitionsError as NoDefinitionsError
from attncomp.errors.files import ParameterOrderError as ParameterOrderError
from attncomp.errors.files import PictureError as PictureError
from attncomp.errors.files import RecursiveDefinitionError as RecursiveDefinitionError
from attncomp.errors.files import ShadowedPrimitiveError as ShadowedPrimitiveError
from attncomp.errors.files import StrayDocError as StrayDocError
from attncomp.errors.files import UnknownImportError as UnknownImportError
from attncomp.errors.files import UnknownModuleError as UnknownModuleError
from attncomp.errors.files import UnknownTypeError as UnknownTypeError
from attncomp.errors.files import UnreadableFileError as UnreadableFileError
from attncomp.errors.files import UnusedNameError as UnusedNameError
from attncomp.errors.modifier import ModifiedOperandError as ModifiedOperandError
from attncomp.errors.modifier import RepeatedModifierError as RepeatedModifierError
from attncomp.errors.modifier import UnknownModifierError as UnknownModifierError
from attncomp.errors.pattern import ArgumentFormError as ArgumentFormError
from attncomp.errors.pattern import ArgumentOrderError as ArgumentOrderError
from attncomp.errors.pattern import ArgumentRangeError as ArgumentRangeError
from attncomp.errors.pattern import ArgumentTypeError as ArgumentTypeError
from attncomp.errors.pattern import ArithmeticRangeError as ArithmeticRangeError
from attncomp.errors.pattern import ArithmeticTypeError as ArithmeticTypeError
from attncomp.errors.pattern import DivisionByZeroError as DivisionByZeroError
from attncomp.errors.pattern import EmptyPatternError as EmptyPatternError
from attncomp.errors.pattern import GateModeError as GateModeError
from attncomp.errors.pattern import HeadGapError as HeadGapError
from attncomp.errors.pattern import HeadOverlapError as HeadOverlapError
from attncomp.errors.pattern import HeadSliceError as HeadSliceError
from attncomp.errors.pattern import MissingArgumentError as MissingArgumentError
from attncomp.errors.pattern import NestingError as NestingError
from attncomp.errors.pattern import PatternTooLargeError as PatternTooLargeError
from attncomp.errors.pattern import RepeatedArgumentError as RepeatedArgumentError
from attncomp.errors.pattern import ReservedWordError as ReservedWordError
from attncomp.errors.pattern import SoftComplementError as SoftComplementError
from attncomp.errors.pattern import TooManyArgumentsError as TooManyArgumentsError
from attncomp.errors.pattern import UnexpectedEndError as UnexpectedEndError
from attncomp.errors.pattern import UnexpectedTextError as UnexpectedTextError
from attncomp.errors.pattern import UnknownArgumentError as UnknownArgumentError
from attncomp.errors.pattern import UnknownParameterError as UnknownParameterError
from attncomp.errors.pattern import UnknownPatternError as UnknownPatternError
from attncomp.errors.predicate import AmbiguousNameError as AmbiguousNameError
from attncomp.errors.predicate import DivisorError as DivisorError
from attncomp.errors.predicate import PredicateRangeError as PredicateRangeError
from attncomp.errors.predicate import RankError as RankError
from attncomp.errors.predicate import SubscriptError as SubscriptError
from attncomp.errors.predicate import TensorNameError as TensorNameError
from attncomp.errors.predicate import UnknownIndexError as UnknownIndexError
from attncomp.source import Note as Note
from attncomp.source import Source as Source
from attncomp.source import Span as Span
from attncomp.source import cropped as cropped
from attncomp.source import printable as printable
from attncomp.source import quoted as quoted
from attncomp.source import suggest as suggest
