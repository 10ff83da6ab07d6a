"""Which ONNX operators may be run: an allow-list of deterministic ones on plain tensors.

Rules
-----
1. Nothing draws random numbers: a seeded RandomUniform advances with each call, so it is a
   counter that a model can hide behind. Training modes are refused for the same reason.
2. Nothing handles strings, sequences, optionals, maps or encoded images.
3. Control flow (If, Loop, Scan) is allowed: its graphs are checked like the outermost one, and
   a loop without end meets the time limit.
4. An operator that ONNX adds later is refused until it is listed here; a test compares both
   lists with the installed onnx.
"""

from typing import Final

DEFAULT_DOMAIN: Final = "ai.onnx"
ML_DOMAIN: Final = "ai.onnx.ml"

OPSETS: Final = {DEFAULT_DOMAIN: range(9, 27), ML_DOMAIN: range(1, 6)}
"""Versions of each accepted operator set."""

ALLOWED: Final[dict[str, frozenset[str]]] = {
    DEFAULT_DOMAIN: frozenset(
        """
        Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh Attention
        AveragePool BatchNormalization BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor
        BlackmanWindow Cast CastLike Ceil Celu CenterCropPad Clip Col2Im Compress Concat Constant
        ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh CumProd CumSum DFT DeformConv
        DepthToSpace DequantizeLinear Det Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf
        Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm
        GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
        GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If
        InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual
        Log LogSoftmax Loop LpNormalization LpPool MatMul MatMulInteger Max MaxPool MaxRoiPool
        MaxUnpool Mean MeanVarianceNormalization MelWeightMatrix Min Mish Mod Mul Neg
        NonMaxSuppression NonZero Not OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul
        QuantizeLinear RMSNormalization RNN Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum
        ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu
        Reshape Resize ReverseSequence RoiAlign RotaryEmbedding Round STFT Scan Scatter
        ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax
        Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan Tanh TensorScatter
        ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze Upsample Where Xor
        """.split()  # noqa: SIM905
    ),
    ML_DOMAIN: frozenset(
        """
        ArrayFeatureExtractor Binarizer FeatureVectorizer Imputer LabelEncoder LinearClassifier
        LinearRegressor Normalizer OneHotEncoder SVMClassifier SVMRegressor Scaler TreeEnsemble
        TreeEnsembleClassifier TreeEnsembleRegressor
        """.split()  # noqa: SIM905
    ),
}

REFUSED: Final[dict[str, frozenset[str]]] = {
    DEFAULT_DOMAIN: frozenset(
        """
        Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike
        NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss ImageDecoder
        ConcatFromSequence SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert
        SequenceLength SequenceMap SplitToSequence Optional OptionalGetElement OptionalHasElement
        RegexFullMatch StringConcat StringNormalizer StringSplit TfIdfVectorizer
        CausalConvWithState LinearAttention SwiGLU
        """.split()  # noqa: SIM905
    ),
    ML_DOMAIN: frozenset({"CastMap", "CategoryMapper", "DictVectorizer", "ZipMap"}),
}
"""Known and left out: for the test of rule 4, and for nothing else."""
