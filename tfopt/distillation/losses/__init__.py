"""The losses of a distillation, each a frozen config and its formula."""

from tfopt.base.registry import Kind
from tfopt.distillation.losses.attention_transfer import AttentionTransfer
from tfopt.distillation.losses.channel_wise import ChannelWise
from tfopt.distillation.losses.dist import DIST
from tfopt.distillation.losses.dkd import DKD
from tfopt.distillation.losses.feature import FeatureLoss
from tfopt.distillation.losses.fitnets import FitNets
from tfopt.distillation.losses.fsp import FSP
from tfopt.distillation.losses.hinton import Hinton
from tfopt.distillation.losses.loss import Loss, LossInputs
from tfopt.distillation.losses.multilabel import MultilabelKD
from tfopt.distillation.losses.parameters import L2, L2SP
from tfopt.distillation.losses.pkt import PKT
from tfopt.distillation.losses.regression import BoundedRegression, RegressionKD
from tfopt.distillation.losses.rkd import RKD
from tfopt.distillation.losses.similarity_preserving import SimilarityPreserving
from tfopt.distillation.losses.standardized import StandardizedKD
from tfopt.distillation.losses.teacher_free import TeacherFree
from tfopt.distillation.losses.vid import VID

LOSSES = Kind[Loss](
    "Loss",
    "loss",
    Loss,
    (
        Hinton,
        DKD,
        DIST,
        StandardizedKD,
        MultilabelKD,
        RegressionKD,
        BoundedRegression,
        TeacherFree,
        L2,
        L2SP,
        FitNets,
        AttentionTransfer,
        ChannelWise,
        SimilarityPreserving,
        RKD,
        FSP,
        PKT,
        VID,
    ),
)

__all__ = [
    "DIST",
    "DKD",
    "FSP",
    "L2",
    "L2SP",
    "LOSSES",
    "PKT",
    "RKD",
    "VID",
    "AttentionTransfer",
    "BoundedRegression",
    "ChannelWise",
    "FeatureLoss",
    "FitNets",
    "Hinton",
    "Loss",
    "LossInputs",
    "MultilabelKD",
    "RegressionKD",
    "SimilarityPreserving",
    "StandardizedKD",
    "TeacherFree",
]
