"""Writes the two small networks of make_face.py, with made-up weights, in the format of TensorFlow Lite: they take and give what
MediaPipe's do, are built of the same operators, and see faces in what is red.
"""

import pathlib

import flatbuffers
import numpy as np
from mediapipe.tasks.metadata import schema_py_generated as schema

MODELS = pathlib.Path(__file__).parent / "mediapipe"
SAME, VALID = 0, 1
Op = schema.BuiltinOperator


class Net:
    """A file of TensorFlow Lite, operator by operator."""

    def __init__(self, seed, half):
        self.random, self.half = np.random.default_rng(seed), half
        self.tensors, self.operators, self.codes = [], [], []
        self.buffers = [schema.BufferT()]

    def tensor(self, shape, dtype=schema.TensorType.FLOAT32, data=None):
        it = schema.TensorT()
        it.shape, it.type, it.buffer, it.name = list(shape), dtype, 0, f"t{len(self.tensors)}".encode()
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            it.buffer = len(self.buffers)
            self.buffers.append(buffer)
        self.tensors.append(it)
        return len(self.tensors) - 1

    def shape(self, at):
        return self.tensors[at].shape

    def weight(self, data):
        data = np.asarray(data)
        if not self.half:
            return self.tensor(data.shape, schema.TensorType.FLOAT32, data.astype(np.float32))
        stored = self.tensor(data.shape, schema.TensorType.FLOAT16, data.astype(np.float16))
        return self.step(Op.DEQUANTIZE, [stored], data.shape)

    def step(self, code, inputs, shape, options=None, kind=0):
        if code not in self.codes:
            self.codes.append(code)
        it = schema.OperatorT()
        it.opcodeIndex, it.inputs = self.codes.index(code), list(inputs)
        it.outputs = [self.tensor(shape)]
        it.builtinOptions, it.builtinOptionsType = options, kind
        self.operators.append(it)
        return it.outputs[0]

    def window(self, options, at, stride, kernel, padding):
        options.strideW = options.strideH = stride
        options.padding = padding
        _, h, w, _ = self.shape(at)
        place = (lambda n: -(-n // stride)) if padding == SAME else (lambda n: (n - kernel) // stride + 1)
        return place(h), place(w)

    def conv(self, at, weight, bias, stride=1, padding=SAME):
        options = schema.Conv2DOptionsT()
        options.dilationWFactor = options.dilationHFactor = 1
        h, w = self.window(options, at, stride, weight.shape[1], padding)
        inputs = [at, self.weight(weight), self.weight(bias)]
        return self.step(Op.CONV_2D, inputs, [1, h, w, len(weight)], options, schema.BuiltinOptions.Conv2DOptions)

    def depthwise(self, at, weight, bias, stride=1):
        options = schema.DepthwiseConv2DOptionsT()
        options.dilationWFactor = options.dilationHFactor = options.depthMultiplier = 1
        h, w = self.window(options, at, stride, weight.shape[1], SAME)
        inputs = [at, self.weight(weight), self.weight(bias)]
        return self.step(Op.DEPTHWISE_CONV_2D, inputs, [1, h, w, weight.shape[3]], options, schema.BuiltinOptions.DepthwiseConv2DOptions)

    def max_pool(self, at):
        options = schema.Pool2DOptionsT()
        options.filterWidth = options.filterHeight = 2
        h, w = self.window(options, at, 2, 2, SAME)
        return self.step(Op.MAX_POOL_2D, [at], [1, h, w, self.shape(at)[3]], options, schema.BuiltinOptions.Pool2DOptions)

    def pad(self, at, channels):
        _, h, w, c = self.shape(at)
        counts = self.tensor([4, 2], schema.TensorType.INT32, np.array([[0, 0], [0, 0], [0, 0], [0, channels - c]], np.int32))
        return self.step(Op.PAD, [at, counts], [1, h, w, channels], schema.PadOptionsT(), schema.BuiltinOptions.PadOptions)

    def add(self, a, b):
        return self.step(Op.ADD, [a, b], self.shape(a), schema.AddOptionsT(), schema.BuiltinOptions.AddOptions)

    def relu(self, at):
        return self.step(Op.RELU, [at], self.shape(at))

    def prelu(self, at):
        slope = self.weight(self.random.uniform(0.1, 0.4, [1, 1, self.shape(at)[3]]))
        return self.step(Op.PRELU, [at, slope], self.shape(at))

    def reshape(self, at, shape):
        options = schema.ReshapeOptionsT()
        options.newShape = shape
        return self.step(Op.RESHAPE, [at], shape, options, schema.BuiltinOptions.ReshapeOptions)

    def concat(self, parts, axis):
        options = schema.ConcatenationOptionsT()
        options.axis = axis
        shape = list(self.shape(parts[0]))
        shape[axis] = sum(self.shape(part)[axis] for part in parts)
        return self.step(Op.CONCATENATION, parts, shape, options, schema.BuiltinOptions.ConcatenationOptions)

    def noise(self, *shape, scale):
        return self.random.uniform(-scale, scale, shape)

    def block(self, at, channels, stride, activation):
        """Depthwise and pointwise beside a way round, as in BlazeFace."""
        c = self.shape(at)[3]
        y = self.depthwise(at, self.noise(1, 3, 3, c, scale=0.3), self.noise(c, scale=0.05), stride)
        y = self.conv(y, self.noise(channels, 1, 1, c, scale=0.2), self.noise(channels, scale=0.05))
        skip = self.max_pool(at) if stride == 2 else at
        skip = self.pad(skip, channels) if channels > c else skip
        return activation(self.add(skip, y))

    def redness(self, size, channels):
        """A kernel whose first channel is the mean of red less green."""
        kernel = self.noise(channels, size, size, 3, scale=0.1)
        kernel[0] = np.array([1.0, -1.0, 0.0]) / size**2
        return kernel

    def write(self, name, inputs, outputs):
        graph = schema.SubGraphT()
        graph.tensors, graph.operators, graph.inputs, graph.outputs = self.tensors, self.operators, inputs, outputs
        model = schema.ModelT()
        model.version, model.subgraphs, model.buffers = 3, [graph], self.buffers
        model.operatorCodes = []
        for code in self.codes:
            entry = schema.OperatorCodeT()
            entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, code, 1 if code != Op.DEQUANTIZE else 2
            model.operatorCodes.append(entry)
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), b"TFL3")
        path = MODELS / name
        path.write_bytes(bytes(builder.Output()))
        assert path.stat().st_size < 200_000, path.stat()


def detector():
    net = Net(1, half=False)
    picture = net.tensor([1, 128, 128, 3])
    x = net.relu(net.conv(picture, net.redness(5, 4), net.noise(4, scale=0.05), 2))
    x = net.block(x, 4, 1, net.relu)
    x = net.block(x, 8, 2, net.relu)
    near = net.block(x, 8, 2, net.relu)
    far = net.block(near, 8, 2, net.relu)
    scores, boxes = [], []
    for feature, each, cells in [(near, 2, 16), (far, 6, 8)]:
        score = net.noise(each, 1, 1, 8, scale=0.3)
        score[:, 0, 0, 0] = 4.0
        scores.append(net.reshape(net.conv(feature, score, net.noise(each, scale=0.3) - 1.6), [1, cells * cells * each, 1]))
        shift = np.array([0, 0, 44, 44, -11, -7, 11, -4, 0, 2, 0, 12, -20, 0, 20, 0])
        bias = np.tile(shift, each) + net.noise(16 * each, scale=2.0)
        box = net.conv(feature, net.noise(16 * each, 1, 1, 8, scale=4.0), bias)
        boxes.append(net.reshape(box, [1, cells * cells * each, 16]))
    scores, boxes = net.concat(scores, 1), net.concat(boxes, 1)
    net.write("face_detection_short_range.tflite", [picture], [boxes, scores])


def spiral(count, centre, radius):
    """Points that fill a disc, each far from the one before."""
    i = np.arange(count)
    r, turn = np.sqrt((i + 0.5) / count) * radius, i * 2.399963
    return np.stack([centre + r * np.cos(turn), centre + r * np.sin(turn), r * np.sin(3 * turn) / 4], 1)


def landmark_model():
    net = Net(2, half=True)
    picture = net.tensor([1, 192, 192, 3])
    x = net.prelu(net.conv(picture, net.redness(3, 4), net.noise(4, scale=0.05), 2))
    for channels, stride in [(4, 1), (4, 2), (8, 2), (8, 2), (8, 2), (8, 2)]:
        x = net.block(x, channels, stride, net.prelu)
    points = net.prelu(net.conv(x, net.noise(4, 1, 1, 8, scale=0.5), net.noise(4, scale=0.1)))
    rest = spiral(468, 96.0, 62.0)
    rest[33], rest[263] = [60.0, 80.0, 2.0], [132.0, 84.0, -2.0]
    landmarks = net.conv(points, net.noise(1404, 3, 3, 4, scale=3.0), rest.reshape(-1), padding=VALID)
    weight = net.noise(1, 3, 3, 8, scale=0.05)
    weight[..., 0] = 0.9
    score = net.conv(x, weight, np.array([-1.5]), padding=VALID)
    net.write("face_landmark.tflite", [picture], [landmarks, score])


if __name__ == "__main__":
    MODELS.mkdir(exist_ok=True)
    detector()
    landmark_model()
