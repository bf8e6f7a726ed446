"""Numbers of LiteRT's public schema, version 3: what `.tflite` files mean by them."""

_BUILTIN_OPERATORS = """
    ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE EMBEDDING_LOOKUP
    FLOOR FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D LOCAL_RESPONSE_NORMALIZATION LOGISTIC
    LSH_PROJECTION LSTM MAX_POOL_2D MUL RELU RELU_N1_TO_1 RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX
    SPACE_TO_DEPTH SVDF TANH CONCAT_EMBEDDINGS SKIP_GRAM CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD
    UNIDIRECTIONAL_SEQUENCE_RNN GATHER BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE
    UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE BIDIRECTIONAL_SEQUENCE_RNN EXP TOPK_V2 SPLIT LOG_SOFTMAX
    DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM ARG_MAX MINIMUM LESS NEG PADV2 GREATER
    GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN TRANSPOSE_CONV SPARSE_TO_DENSE TILE EXPAND_DIMS EQUAL
    NOT_EQUAL LOG SUM SQRT RSQRT SHAPE POW ARG_MIN FAKE_QUANT REDUCE_PROD REDUCE_MAX PACK LOGICAL_OR ONE_HOT
    LOGICAL_AND LOGICAL_NOT UNPACK REDUCE_MIN FLOOR_DIV REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD RANGE
    RESIZE_NEAREST_NEIGHBOR LEAKY_RELU SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL REVERSE_V2
    ADD_N GATHER_ND COS WHERE RANK ELU REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG ROUND
    HARD_SWISH IF WHILE NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 SCATTER_ND SELECT_V2 DENSIFY
    SEGMENT_SUM BATCH_MATMUL PLACEHOLDER_FOR_GREATER_OP_CODES CUMSUM CALL_ONCE BROADCAST_TO RFFT2D CONV_3D
    IMAG REAL COMPLEX_ABS HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL
    CONV_3D_TRANSPOSE VAR_HANDLE READ_VARIABLE ASSIGN_VARIABLE BROADCAST_ARGS RANDOM_STANDARD_NORMAL
    BUCKETIZE RANDOM_UNIFORM MULTINOMIAL GELU DYNAMIC_UPDATE_SLICE RELU_0_TO_1 UNSORTED_SEGMENT_PROD
    UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_SUM ATAN2 UNSORTED_SEGMENT_MIN SIGN BITCAST BITWISE_XOR
    RIGHT_SHIFT STABLEHLO_LOGISTIC STABLEHLO_ADD STABLEHLO_DIVIDE STABLEHLO_MULTIPLY STABLEHLO_MAXIMUM
    STABLEHLO_RESHAPE STABLEHLO_CLAMP STABLEHLO_CONCATENATE STABLEHLO_BROADCAST_IN_DIM STABLEHLO_CONVOLUTION
    STABLEHLO_SLICE STABLEHLO_CUSTOM_CALL STABLEHLO_REDUCE STABLEHLO_ABS STABLEHLO_AND STABLEHLO_COSINE
    STABLEHLO_EXPONENTIAL STABLEHLO_FLOOR STABLEHLO_LOG STABLEHLO_MINIMUM STABLEHLO_NEGATE STABLEHLO_OR
    STABLEHLO_POWER STABLEHLO_REMAINDER STABLEHLO_RSQRT STABLEHLO_SELECT STABLEHLO_SUBTRACT STABLEHLO_TANH
    STABLEHLO_SCATTER STABLEHLO_COMPARE STABLEHLO_CONVERT STABLEHLO_DYNAMIC_SLICE
    STABLEHLO_DYNAMIC_UPDATE_SLICE STABLEHLO_PAD STABLEHLO_IOTA STABLEHLO_DOT_GENERAL
    STABLEHLO_REDUCE_WINDOW STABLEHLO_SORT STABLEHLO_WHILE STABLEHLO_GATHER STABLEHLO_TRANSPOSE DILATE
    STABLEHLO_RNG_BIT_GENERATOR REDUCE_WINDOW STABLEHLO_COMPOSITE STABLEHLO_SHIFT_LEFT STABLEHLO_CBRT
    STABLEHLO_CASE
"""
BUILTIN_OPERATORS = tuple(_BUILTIN_OPERATORS.split())  # by number, from 0

TENSOR_TYPES = {
    0: "FLOAT32",
    1: "FLOAT16",
    2: "INT32",
    3: "UINT8",
    4: "INT64",
    5: "STRING",
    6: "BOOL",
    7: "INT16",
    8: "COMPLEX64",
    9: "INT8",
    10: "FLOAT64",
    11: "COMPLEX128",
    12: "UINT64",
    13: "RESOURCE",
    14: "VARIANT",
    15: "UINT32",
    16: "UINT16",
    17: "INT4",
    18: "BFLOAT16",
    19: "INT2",
    20: "UINT4",
    21: "FLOAT8_E4M3FN",
    22: "FLOAT8_E5M2",
}

# Those whose values we read; INT4 is two values a byte and is read apart.
DTYPES = {
    "FLOAT32": "f4",
    "INT32": "i4",
    "UINT8": "u1",
    "INT64": "i8",
    "BOOL": "?",
    "INT16": "i2",
    "INT8": "i1",
    "UINT32": "u4",
    "UINT16": "u2",
}

ACTIVATION_FUNCTIONS = {0: "NONE", 1: "RELU", 2: "RELU_N1_TO_1", 3: "RELU6", 4: "TANH", 5: "SIGN_BIT"}

# Enumerations of one byte that options hold.
ENUMERATIONS: dict[str, dict[int, str]] = {
    "activation": ACTIVATION_FUNCTIONS,
    "padding": {0: "SAME", 1: "VALID"},
    "mirror": {0: "REFLECT", 1: "SYMMETRIC"},
    "weights": {0: "DEFAULT", 1: "SHUFFLED4X16INT8"},
    "type": TENSOR_TYPES,
}

# Options of one operator: field -> (slot, kind, default). A kind is an enumeration above, a scalar,
# "ints" or "string".
Options = dict[str, tuple[int, str, int | float | str]]


def _fields(*described: str) -> Options:
    """Read "slot name kind [default]", where a name in parts stands for one field each."""
    zeros: dict[str, int | float | str] = {"float32": 0.0, "string": "", "ints": ""}
    fields: Options = {}
    for text in described:
        slot, name, kind, *default = text.split()
        zero = zeros.get(kind, ENUMERATIONS[kind][0] if kind in ENUMERATIONS else 0)
        fields[name] = (int(slot), kind, int(default[0]) if default else zero)
    return fields


_ACTIVATION = "fused_activation_function activation"
_STRIDES = ("0 padding padding", "1 stride_w int32", "2 stride_h int32")
_ASYMMETRIC = "asymmetric_quantize_inputs bool"
_POOL = _fields(*_STRIDES, "3 filter_width int32", "4 filter_height int32", f"5 {_ACTIVATION}")
_SUM = _fields(f"0 {_ACTIVATION}", "1 pot_scale_int16 bool 1")
_PRODUCT = _fields(f"0 {_ACTIVATION}")
_REDUCER = _fields("0 keep_dims bool")
_LSTM = (f"0 {_ACTIVATION}", "1 cell_clip float32", "2 proj_clip float32")
_CORNERS = ("align_corners bool", "half_pixel_centers bool")

# Operator -> (tag of its table in the union of options, its fields). Operators that are not here have no
# options that matter.
OPERATOR_OPTIONS: dict[str, tuple[int, Options]] = {
    "CONV_2D": (
        1,
        _fields(*_STRIDES, f"3 {_ACTIVATION}", "4 dilation_w_factor int32 1", "5 dilation_h_factor int32 1")
        | _fields("6 quantized_bias_type type"),
    ),
    "DEPTHWISE_CONV_2D": (
        2,
        _fields(*_STRIDES, "3 depth_multiplier int32", f"4 {_ACTIVATION}")
        | _fields("5 dilation_w_factor int32 1", "6 dilation_h_factor int32 1"),
    ),
    "TRANSPOSE_CONV": (49, _fields(*_STRIDES, f"3 {_ACTIVATION}", "4 quantized_bias_type type")),
    "AVERAGE_POOL_2D": (5, _POOL),
    "MAX_POOL_2D": (5, _POOL),
    "L2_POOL_2D": (5, _POOL),
    "FULLY_CONNECTED": (
        8,
        _fields(f"0 {_ACTIVATION}", "1 weights_format weights", "2 keep_num_dims bool", f"3 {_ASYMMETRIC}")
        | _fields("4 quantized_bias_type type"),
    ),
    "BATCH_MATMUL": (101, _fields("0 adj_x bool", "1 adj_y bool", f"2 {_ASYMMETRIC}")),
    "SOFTMAX": (9, _fields("0 beta float32")),
    "ADD": (11, _SUM),
    "SUB": (28, _SUM),
    "MUL": (21, _PRODUCT),
    "DIV": (29, _PRODUCT),
    "L2_NORMALIZATION": (12, _PRODUCT),
    "MEAN": (27, _REDUCER),
    "SUM": (27, _REDUCER),
    "REDUCE_MAX": (27, _REDUCER),
    "REDUCE_MIN": (27, _REDUCER),
    "REDUCE_PROD": (27, _REDUCER),
    "REDUCE_ANY": (27, _REDUCER),
    "REDUCE_ALL": (27, _REDUCER),
    "ARG_MAX": (40, _fields("0 output_type type")),
    "ARG_MIN": (57, _fields("0 output_type type")),
    "CUMSUM": (102, _fields("0 exclusive bool", "1 reverse bool")),
    "LEAKY_RELU": (75, _fields("0 alpha float32")),
    "FAKE_QUANT": (58, _fields("0 min float32", "1 max float32", "2 num_bits int32", "3 narrow_range bool")),
    "GELU": (116, _fields("0 approximate bool")),
    "CAST": (37, _fields("0 in_data_type type", "1 out_data_type type")),
    "CONCATENATION": (10, _fields("0 axis int32", f"1 {_ACTIVATION}")),
    "PACK": (59, _fields("0 values_count int32", "1 axis int32")),
    "UNPACK": (64, _fields("0 num int32", "1 axis int32")),
    "SPLIT": (35, _fields("0 num_splits int32")),
    "SPLIT_V": (79, _fields("0 num_splits int32")),
    "GATHER": (23, _fields("0 axis int32", "1 batch_dims int32")),
    "ONE_HOT": (61, _fields("0 axis int32")),
    "RESHAPE": (17, _fields("0 new_shape ints")),
    "SQUEEZE": (30, _fields("0 squeeze_dims ints")),
    "SHAPE": (55, _fields("0 out_type type")),
    "MIRROR_PAD": (77, _fields("0 mode mirror")),
    "SPACE_TO_DEPTH": (19, _fields("0 block_size int32")),
    "DEPTH_TO_SPACE": (94, _fields("0 block_size int32")),
    "RESIZE_BILINEAR": (15, _fields(*(f"{i + 2} {field}" for i, field in enumerate(_CORNERS)))),
    "RESIZE_NEAREST_NEIGHBOR": (74, _fields(*(f"{i} {field}" for i, field in enumerate(_CORNERS)))),
    "REVERSE_SEQUENCE": (87, _fields("0 seq_dim int32", "1 batch_dim int32")),
    "STRIDED_SLICE": (
        32,
        _fields("0 begin_mask int32", "1 end_mask int32", "2 ellipsis_mask int32", "3 new_axis_mask int32")
        | _fields("4 shrink_axis_mask int32", "5 offset bool"),
    ),
    "SVDF": (6, _fields("0 rank int32", f"1 {_ACTIVATION}", f"2 {_ASYMMETRIC}")),
    "LSTM": (14, _fields(*_LSTM, "3 kernel_type int8", f"4 {_ASYMMETRIC}")),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": (
        71,
        _fields(*_LSTM, "3 time_major bool", f"4 {_ASYMMETRIC}", "5 diagonal_recurrent_tensors bool"),
    ),
    "VAR_HANDLE": (111, _fields("0 container string", "1 shared_name string")),
    "CALL_ONCE": (103, _fields("0 init_subgraph_index int32")),
    "IF": (92, _fields("0 then_subgraph_index int32", "1 else_subgraph_index int32")),
    "WHILE": (93, _fields("0 cond_subgraph_index int32", "1 body_subgraph_index int32")),
}
