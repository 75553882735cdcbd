//! Small networks of TensorFlow Lite, as MediaPipe publishes its face models, to operators of a graph.
//!
//! [`Network::parse`] reads the file; [`Network::build`] adds its operators to a graph. Read are the operators of MediaPipe's
//! detector and landmark models, in floats of 32 bits or weights of 16: anything else is refused by name. Pictures are
//! (N, H, W, C) in a file and (N, C, H, W) in a graph; the change is made where pictures come in and go out, and where they are
//! reshaped.
//!
//! The layout of the file is that of TensorFlow Lite's schema, version 3.

mod flat;
#[doc(hidden)]
pub mod fuzz;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use flat::Table;

use crate::graph::{Conv, DType, GraphBuilder, GraphError, Padding, Pool, Tensor};

/// Most bytes of a file.
pub const MAX_BYTES: u64 = 64 << 20;
/// Most operators, tensors and dimensions of a tensor.
const MAX_OPERATORS: usize = 4096;
const MAX_TENSORS: usize = 16_384;
const MAX_RANK: usize = 6;
/// Most tensors that an operator, or the network, takes or gives.
const MAX_PORTS: usize = 256;
/// So often may all of the file's bytes be read as weights: each weight once, and room for a few that are shared.
const MAX_READS: u64 = 8;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TfliteError {
    /// The file cannot be read.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The file is larger than [`MAX_BYTES`].
    #[error("it has {0} bytes, {MAX_BYTES} are allowed")]
    Large(u64),
    /// It is no file of TensorFlow Lite, or not a whole one.
    #[error("it is no whole file of TensorFlow Lite: {0}")]
    Broken(String),
    /// It needs something that is not read here.
    #[error("it needs {0}, which is not read here")]
    Unknown(String),
    /// Its operators do not fit together.
    #[error(transparent)]
    Graph(#[from] GraphError),
}

/// What a number of an enumeration in the schema stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Add,
    Concat,
    Conv,
    DepthwiseConv,
    Dequantize,
    Logistic,
    MaxPool,
    Relu,
    Relu6,
    Reshape,
    Pad,
    Prelu,
}

impl Kind {
    fn of(code: i32) -> Result<Self, TfliteError> {
        Ok(match code {
            0 => Kind::Add,
            2 => Kind::Concat,
            3 => Kind::Conv,
            4 => Kind::DepthwiseConv,
            6 => Kind::Dequantize,
            14 => Kind::Logistic,
            17 => Kind::MaxPool,
            19 => Kind::Relu,
            21 => Kind::Relu6,
            22 => Kind::Reshape,
            34 => Kind::Pad,
            54 => Kind::Prelu,
            32 => return Err(TfliteError::Unknown("an operator of its own".to_owned())),
            other => return Err(TfliteError::Unknown(format!("operator {other}"))),
        })
    }
}

/// Types of elements that are read: 32-bit floats, 16-bit floats, 32-bit integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    F32,
    F16,
    I32,
    Other(u8),
}

struct Value {
    shape: Vec<u64>,
    element: Element,
    /// Its bytes in the file; empty for what is computed.
    data: Range<usize>,
}

/// Places of tensors.
struct Operator {
    kind: Kind,
    inputs: Vec<usize>,
    outputs: Vec<usize>,
    /// The numbers that belong to its kind.
    options: Options,
}

/// What an operator is set to. A field that its kind does not have is what it is by default.
#[derive(Clone, Copy, Default)]
struct Options {
    /// Whether the picture is not padded.
    valid: bool,
    /// Down and right.
    stride: [u64; 2],
    window: [u64; 2],
    dilation: [u64; 2],
    axis: i64,
    activation: u8,
}

/// A network as it stands in a file.
pub struct Network {
    bytes: Vec<u8>,
    values: Vec<Value>,
    operators: Vec<Operator>,
    inputs: Vec<usize>,
    outputs: Vec<usize>,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Network({} operators, {:?} to {:?})", self.operators.len(), self.inputs(), self.outputs())
    }
}

impl Network {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// As [`Self::parse`]; also when it cannot be read.
    pub fn open(path: &Path) -> Result<Self, TfliteError> {
        let length = std::fs::metadata(path)?.len();
        if length > MAX_BYTES {
            return Err(TfliteError::Large(length));
        }
        Self::parse(std::fs::read(path)?)
    }

    /// Reads a file's bytes.
    ///
    /// # Errors
    /// When it is broken, larger than the limits, or needs what is not read here.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, TfliteError> {
        if bytes.len() as u64 > MAX_BYTES {
            return Err(TfliteError::Large(bytes.len() as u64));
        }
        if bytes.get(4..8) != Some(b"TFL3") {
            return Err(TfliteError::Broken("the mark TFL3 is missing".to_owned()));
        }
        let model = Table::root(&bytes)?;
        let codes = model.vector(1, 4)?;
        let graphs = model.vector(2, 4)?;
        let buffers = model.vector(4, 4)?;
        if graphs.len != 1 {
            return Err(TfliteError::Unknown(format!("{} graphs in one file", graphs.len)));
        }
        let graph = graphs.table(0)?;
        let (tensors, steps) = (graph.vector(0, 4)?, graph.vector(3, 4)?);
        if tensors.len > MAX_TENSORS || steps.len > MAX_OPERATORS {
            return Err(TfliteError::Unknown(format!("{} tensors and {} operators", tensors.len, steps.len)));
        }
        let mut values = Vec::with_capacity(tensors.len);
        for i in 0..tensors.len {
            values.push(value(&tensors.table(i)?, &buffers)?);
        }
        let place = |n: i32| {
            let place = usize::try_from(n).ok().filter(|&place| place < tensors.len);
            place.ok_or_else(|| TfliteError::Broken(format!("there is no tensor {n}")))
        };
        let places = |ints: Vec<i32>| ints.into_iter().map(place).collect::<Result<Vec<_>, _>>();
        let mut operators = Vec::with_capacity(steps.len);
        for i in 0..steps.len {
            let step = steps.table(i)?;
            let code = codes.table(step.int(0, 0)? as usize)?;
            // Files of old programs have the number in a byte.
            let kind = Kind::of(code.int(3, 0)?.max(i32::from(code.byte(0, 0)?)))?;
            operators.push(Operator {
                kind,
                inputs: places(step.ints(1, MAX_PORTS)?)?,
                outputs: places(step.ints(2, MAX_PORTS)?)?,
                options: step.table(4)?.map_or(Ok(Options::default()), |table| options(kind, &table))?,
            });
        }
        let (inputs, outputs) = (places(graph.ints(1, MAX_PORTS)?)?, places(graph.ints(2, MAX_PORTS)?)?);
        Ok(Self { values, operators, inputs, outputs, bytes })
    }

    /// Shapes of what it takes.
    pub fn inputs(&self) -> Vec<&[u64]> {
        self.inputs.iter().map(|&at| self.values[at].shape.as_slice()).collect()
    }

    /// Shapes of what it gives.
    pub fn outputs(&self) -> Vec<&[u64]> {
        self.outputs.iter().map(|&at| self.values[at].shape.as_slice()).collect()
    }

    /// Adds the network to `g`: `input` f32 of its only input's shape, (N, H, W, C), to its outputs in their order and shapes.
    ///
    /// # Errors
    /// When its operators do not fit together or need what is not read here.
    pub fn build(&self, g: &mut GraphBuilder, input: &Tensor) -> Result<Vec<Tensor>, TfliteError> {
        let &[only] = self.inputs.as_slice() else {
            return Err(TfliteError::Unknown(format!("{} inputs", self.inputs.len())));
        };
        let left = MAX_READS.saturating_mul(self.bytes.len() as u64);
        let mut build = Building { net: self, g, made: HashMap::new(), same: HashMap::new(), left };
        let given = build.enter(input)?;
        build.fits(only, &given)?;
        build.made.insert(only, given);
        for (i, operator) in self.operators.iter().enumerate() {
            build.step(operator).map_err(|error| match error {
                TfliteError::Unknown(what) => {
                    TfliteError::Unknown(format!("{what} (operator {i}, {:?})", operator.kind))
                }
                other => other,
            })?;
        }
        self.outputs.iter().map(|&at| build.leave(at)).collect()
    }
}

fn value(table: &Table<'_>, buffers: &flat::Vector<'_>) -> Result<Value, TfliteError> {
    let shape = table.ints(0, MAX_RANK)?;
    let shape = shape.into_iter().map(u64::try_from).collect::<Result<Vec<_>, _>>();
    let shape = shape.map_err(|_| TfliteError::Unknown("a shape that is not known beforehand".to_owned()))?;
    let element = match table.byte(1, 0)? {
        0 => Element::F32,
        1 => Element::F16,
        2 => Element::I32,
        other => Element::Other(other),
    };
    let buffer = buffers.table(table.int(2, 0)? as usize)?;
    let data = buffer.vector(0, 1)?.range();
    if !data.is_empty() && table.table(6)?.is_some() {
        return Err(TfliteError::Unknown("a tensor that is stored sparsely".to_owned()));
    }
    Ok(Value { shape, element, data })
}

fn options(kind: Kind, table: &Table<'_>) -> Result<Options, TfliteError> {
    let mut options = Options { stride: [1, 1], window: [1, 1], dilation: [1, 1], ..Options::default() };
    let length = |index: usize| {
        let n = table.int(index, 1)?;
        u64::try_from(n)
            .ok()
            .filter(|n| (1..=64).contains(n))
            .ok_or_else(|| TfliteError::Unknown(format!("a step of {n}")))
    };
    match kind {
        Kind::Conv | Kind::DepthwiseConv => {
            // The number of channels made of each stands between, for the latter.
            let rest = if kind == Kind::Conv { 3 } else { 4 };
            options.valid = table.byte(0, 0)? == 1;
            options.stride = [length(2)?, length(1)?];
            options.activation = table.byte(rest, 0)?;
            options.dilation = [length(rest + 2)?, length(rest + 1)?];
        }
        Kind::MaxPool => {
            options.valid = table.byte(0, 0)? == 1;
            options.stride = [length(2)?, length(1)?];
            options.window = [length(4)?, length(3)?];
            options.activation = table.byte(5, 0)?;
        }
        Kind::Add => options.activation = table.byte(0, 0)?,
        Kind::Concat => {
            options.axis = table.int(0, 0)?.into();
            options.activation = table.byte(1, 0)?;
        }
        _ => {}
    }
    Ok(options)
}

/// A network on its way into a graph.
struct Building<'a> {
    net: &'a Network,
    g: &'a mut GraphBuilder,
    /// What is computed: of four dimensions as (N, C, H, W), others as they are.
    made: HashMap<usize, Tensor>,
    /// Weights that are others, in more bits.
    same: HashMap<usize, usize>,
    /// Bytes of weights that may still be read.
    left: u64,
}

impl Building<'_> {
    fn step(&mut self, operator: &Operator) -> Result<(), TfliteError> {
        let &[to] = operator.outputs.as_slice() else {
            return Err(TfliteError::Unknown(format!("{} outputs", operator.outputs.len())));
        };
        let Options { valid, stride, window, dilation, axis, activation } = operator.options;
        let from = |i: usize| {
            operator
                .inputs
                .get(i)
                .copied()
                .ok_or_else(|| TfliteError::Broken(format!("{:?} lacks an input", operator.kind)))
        };
        let first = from(0)?;
        let y = match operator.kind {
            Kind::Dequantize => {
                if self.constant(first).is_none() {
                    return Err(TfliteError::Unknown("numbers of few bits that are computed".to_owned()));
                }
                self.same.insert(to, first);
                return Ok(());
            }
            Kind::Conv | Kind::DepthwiseConv => {
                let (weight, bias) = (from(1)?, operator.inputs.get(2).copied());
                let x = self.tensor(first)?;
                let [_, _, height, width] = four(&x)?;
                let [a, kh, kw, b] = self.shape4(weight)?;
                let (weight, groups) = match operator.kind {
                    // (filters, h, w, channels) to (filters, channels, h, w)
                    Kind::Conv => {
                        (self.weights(weight, [a, b, kh, kw], |[f, c, y, x]| ((f * kh + y) * kw + x) * b + c)?, 1)
                    }
                    // (1, h, w, filters) to (filters, 1, h, w)
                    _ => (self.weights(weight, [b, 1, kh, kw], |[f, _, y, x]| (y * kw + x) * b + f)?, four(&x)?[1]),
                };
                let bias = bias.map(|bias| self.plain(bias)).transpose()?;
                let reach = [(kh.max(1) - 1) * dilation[0] + 1, (kw.max(1) - 1) * dilation[1] + 1];
                let padding = around(valid, [height, width], reach, stride);
                let how = Conv { stride, padding, dilation, groups };
                self.g.conv(&x, &weight, bias.as_ref(), how)?
            }
            Kind::MaxPool => {
                let x = self.tensor(first)?;
                let [_, _, height, width] = four(&x)?;
                let [top, left, bottom, right] = around(valid, [height, width], window, stride);
                // What is put around is never the largest.
                let with = Padding::Number(f64::from(f32::MIN));
                let x = self.g.pad_with(&x, &[0, 0, top, left], &[0, 0, bottom, right], with)?;
                self.g.max_pool(&x, Pool { window, stride })?
            }
            Kind::Add => {
                let (a, b) = (self.tensor(first)?, self.tensor(from(1)?)?);
                self.g.add(&a, &b)?
            }
            Kind::Relu => {
                let x = self.tensor(first)?;
                self.g.relu(&x)?
            }
            Kind::Relu6 => {
                let x = self.tensor(first)?;
                self.g.clip(&x, 0.0, 6.0)?
            }
            Kind::Logistic => {
                let x = self.tensor(first)?;
                self.g.sigmoid(&x)?
            }
            Kind::Prelu => {
                let x = self.tensor(first)?;
                let slope = from(1)?;
                let channels = four(&x)?[1];
                let slope = self.floats(slope)?;
                if slope.len() as u64 != channels {
                    return Err(TfliteError::Unknown("a slope for each pixel".to_owned()));
                }
                let slope = self.g.floats(DType::F32, [channels, 1, 1], &slope)?;
                let above = self.g.relu(&x)?;
                let below = self.g.neg(&x)?;
                let below = self.g.relu(&below)?;
                let below = self.g.mul(&below, &slope)?;
                self.g.sub(&above, &below)?
            }
            Kind::Pad => {
                let x = self.tensor(first)?;
                four(&x)?;
                let counts = self.ints(from(1)?)?;
                let [n0, n1, h0, h1, w0, w1, c0, c1] = counts[..] else {
                    return Err(TfliteError::Unknown(format!("{} counts to pad by", counts.len())));
                };
                self.g.pad(&x, &[n0, c0, h0, w0], &[n1, c1, h1, w1])?
            }
            Kind::Reshape => {
                let x = self.outside(first)?;
                let shape: Vec<i64> = self.net.values[to].shape.iter().map(|&n| n as i64).collect();
                let y = self.g.reshape(&x, &shape)?;
                self.enter(&y)?
            }
            Kind::Concat => {
                let parts = operator.inputs.iter().map(|&at| self.tensor(at)).collect::<Result<Vec<_>, _>>()?;
                let rank = self.net.values[to].shape.len() as i64;
                let axis = if axis < 0 { axis + rank } else { axis };
                let axis = match (rank, axis) {
                    (4, 1) => 2,
                    (4, 2) => 3,
                    (4, 3) => 1,
                    _ => axis,
                };
                self.g.concat(&parts.iter().collect::<Vec<_>>(), axis)?
            }
        };
        let y = match activation {
            0 => y,
            1 => self.g.relu(&y)?,
            3 => self.g.clip(&y, 0.0, 6.0)?,
            other => return Err(TfliteError::Unknown(format!("activation {other}"))),
        };
        self.fits(to, &y)?;
        self.made.insert(to, y);
        Ok(())
    }

    /// Whether what the graph makes has the shape that the file says.
    fn fits(&self, at: usize, made: &Tensor) -> Result<(), TfliteError> {
        let wanted = match self.net.values[at].shape[..] {
            [n, h, w, c] => vec![n, c, h, w],
            ref other => other.to_vec(),
        };
        match made.shape().fixed() {
            Some(shape) if shape == wanted && made.dtype() == DType::F32 => Ok(()),
            _ => Err(TfliteError::Broken(format!("tensor {at} is {wanted:?} there, and {} in truth", made.shape()))),
        }
    }

    fn tensor(&self, at: usize) -> Result<Tensor, TfliteError> {
        self.made.get(&at).cloned().ok_or_else(|| TfliteError::Unknown(format!("tensor {at}, which nothing computes,")))
    }

    /// (N, H, W, C) to (N, C, H, W); other than four dimensions stay.
    fn enter(&mut self, x: &Tensor) -> Result<Tensor, TfliteError> {
        Ok(if x.rank() == 4 { self.g.transpose(x, &[0, 3, 1, 2])? } else { x.clone() })
    }

    /// The tensor at `at` as the file has it.
    fn outside(&mut self, at: usize) -> Result<Tensor, TfliteError> {
        let x = self.tensor(at)?;
        Ok(if x.rank() == 4 { self.g.transpose(&x, &[0, 2, 3, 1])? } else { x })
    }

    fn leave(&mut self, at: usize) -> Result<Tensor, TfliteError> {
        self.outside(at)
    }

    /// The stored tensor that stands for the one at `at`.
    fn constant(&self, at: usize) -> Option<&Value> {
        let at = self.same.get(&at).copied().unwrap_or(at);
        self.net.values.get(at).filter(|value| !value.data.is_empty())
    }

    fn stored(&self, at: usize) -> Result<(&Value, &[u8]), TfliteError> {
        let value = self
            .constant(at)
            .ok_or_else(|| TfliteError::Unknown(format!("tensor {at} as numbers known beforehand")))?;
        let bytes = self.net.bytes.get(value.data.clone()).unwrap_or_default();
        let size = if value.element == Element::F16 { 2 } else { 4 };
        let elements = value.shape.iter().try_fold(1_u64, |product, &n| product.checked_mul(n));
        if elements.and_then(|n| n.checked_mul(size)) != Some(bytes.len() as u64) {
            return Err(TfliteError::Broken(format!("tensor {at} of {:?} has {} bytes", value.shape, bytes.len())));
        }
        Ok((value, bytes))
    }

    fn floats(&mut self, at: usize) -> Result<Vec<f32>, TfliteError> {
        let length = self.stored(at)?.1.len() as u64;
        // Many operators may name one weight, and each has it in the graph once more.
        self.left = self.left.checked_sub(length).ok_or_else(|| {
            TfliteError::Unknown(format!("its weights more than {MAX_READS} times, by operators that share them"))
        })?;
        let (value, bytes) = self.stored(at)?;
        match value.element {
            Element::F32 => Ok(bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect()),
            Element::F16 => {
                Ok(bytes.as_chunks::<2>().0.iter().map(|two| half::f16::from_le_bytes(*two).to_f32()).collect())
            }
            other => Err(TfliteError::Unknown(format!("weights of type {other:?}"))),
        }
    }

    fn ints(&self, at: usize) -> Result<Vec<u64>, TfliteError> {
        let (value, bytes) = self.stored(at)?;
        let whole = bytes.as_chunks::<4>().0.iter().map(|four| u64::try_from(i32::from_le_bytes(*four)).ok());
        match value.element {
            Element::I32 => whole.collect::<Option<Vec<_>>>(),
            _ => None,
        }
        .ok_or_else(|| TfliteError::Unknown(format!("counts of type {:?}", value.element)))
    }

    fn shape4(&self, at: usize) -> Result<[u64; 4], TfliteError> {
        let shape = &self.net.values[at].shape;
        shape.as_slice().try_into().map_err(|_| TfliteError::Unknown(format!("a kernel of {shape:?}")))
    }

    /// Numbers in one row, as they are.
    fn plain(&mut self, at: usize) -> Result<Tensor, TfliteError> {
        let floats = self.floats(at)?;
        Ok(self.g.floats(DType::F32, [floats.len() as u64], &floats)?)
    }

    /// Numbers in another order: `from` tells where the one at a place of the new shape comes from.
    fn weights(&mut self, at: usize, shape: [u64; 4], from: impl Fn([u64; 4]) -> u64) -> Result<Tensor, TfliteError> {
        let floats = self.floats(at)?;
        let [a, b, c, d] = shape;
        let mut turned = Vec::with_capacity(floats.len());
        for i in 0..a {
            for j in 0..b {
                for k in 0..c {
                    for l in 0..d {
                        let place = from([i, j, k, l]) as usize;
                        turned.push(
                            *floats.get(place).ok_or_else(|| TfliteError::Broken(format!("tensor {at} is short")))?,
                        );
                    }
                }
            }
        }
        Ok(self.g.floats(DType::F32, shape, &turned)?)
    }
}

fn four(x: &Tensor) -> Result<[u64; 4], TfliteError> {
    let shape = x.shape().fixed().and_then(|shape| shape.try_into().ok());
    shape.ok_or_else(|| TfliteError::Unknown(format!("a picture of {}", x.shape())))
}

/// What is put around a picture, top, left, bottom, right, so that there is a place for every stride; nothing where `valid`.
/// Of an odd number the larger part goes below and right.
fn around(valid: bool, size: [u64; 2], reach: [u64; 2], stride: [u64; 2]) -> [u64; 4] {
    if valid {
        return [0; 4];
    }
    let [down, across] = std::array::from_fn(|i| {
        let places = size[i].div_ceil(stride[i].max(1));
        (places.max(1) - 1).saturating_mul(stride[i]).saturating_add(reach[i]).saturating_sub(size[i])
    });
    [down / 2, across / 2, down - down / 2, across - across / 2]
}
