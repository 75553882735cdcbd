//! The builder's core: values, names, scopes, weights.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use half::f16;

use super::external::External;
use super::model::Model;
use super::proto::{
    AttributeProto, AttributeType, DimensionProto, DimensionValue, GraphProto, NodeProto, StringStringEntry,
    TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use super::{DType, Dim, GraphError, Shape};

/// A value of a graph under construction: a handle that knows its type and shape. Cheap to clone, and of use only with the
/// builder that made it.
#[derive(Clone, Debug)]
pub struct Tensor {
    value: usize,
    graph: u64,
    dtype: DType,
    shape: Shape,
}

impl Tensor {
    /// Type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// How many dimensions there are.
    pub fn rank(&self) -> usize {
        self.shape.rank()
    }
}

/// Where a value comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Input,
    Initializer,
    Node,
}

struct Value {
    name: String,
    origin: Origin,
    dtype: DType,
    shape: Shape,
}

struct Node {
    name: String,
    op: &'static str,
    inputs: Vec<Option<usize>>,
    outputs: Vec<usize>,
    attributes: Vec<AttributeProto>,
}

/// Builds one graph. Operators are methods that check types and shapes at once, so that an error names the place where
/// the graph is wrong instead of the place where a runtime stumbles over it.
pub struct GraphBuilder {
    id: u64,
    name: String,
    scope: String,
    names: HashMap<String, u32>,
    values: Vec<Value>,
    nodes: Vec<Node>,
    initializers: Vec<TensorProto>,
    constants: HashMap<(DType, Shape, Vec<u8>), Tensor>,
    inputs: Vec<usize>,
    outputs: Vec<usize>,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// Constants up to this many bytes are shared between their users.
const SHARED_CONSTANT: usize = 256;

impl GraphBuilder {
    /// An empty graph called `name`.
    pub fn new(name: &str) -> Self {
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            name: name.to_owned(),
            scope: String::new(),
            names: HashMap::new(),
            values: Vec::new(),
            nodes: Vec::new(),
            initializers: Vec::new(),
            constants: HashMap::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
        }
    }

    /// Everything that `build` adds is named under `name`. Scopes nest with dots, so the names lead back to the module
    /// whose weights they use: `unet.down_blocks.0/Conv`.
    ///
    /// # Errors
    /// Those of `build`.
    pub fn scope<R>(
        &mut self,
        name: &str,
        build: impl FnOnce(&mut Self) -> Result<R, GraphError>,
    ) -> Result<R, GraphError> {
        let outer = self.scope.len();
        if outer > 0 {
            self.scope.push('.');
        }
        self.scope.push_str(name);
        let result = build(self);
        self.scope.truncate(outer);
        result
    }

    /// A value that is fed at every run.
    ///
    /// # Errors
    /// [`GraphError::Name`] when the name is taken.
    pub fn input(&mut self, name: &str, dtype: DType, shape: impl Into<Shape>) -> Result<Tensor, GraphError> {
        let name = self.claim(name.to_owned())?;
        let tensor = self.value(name, Origin::Input, dtype, shape.into());
        self.inputs.push(tensor.value);
        Ok(tensor)
    }

    /// Makes `tensor` an output called `name`. A computed value takes that name itself; an input, a weight, or a value
    /// that is an output already is passed on by a node.
    ///
    /// # Errors
    /// [`GraphError::Name`] when the name is taken.
    pub fn output(&mut self, name: &str, tensor: &Tensor) -> Result<(), GraphError> {
        self.own("output", tensor)?;
        let name = self.claim(name.to_owned())?;
        let plain = self.values[tensor.value].origin == Origin::Node && !self.outputs.contains(&tensor.value);
        let value = if plain {
            tensor.value
        } else {
            self.node("Identity", &[tensor], Vec::new(), tensor.dtype, tensor.shape.clone())?.value
        };
        self.values[value].name = name;
        self.outputs.push(value);
        Ok(())
    }

    /// A weight called `name` with its elements inside the model: little-endian, row-major.
    ///
    /// # Errors
    /// [`GraphError::Name`] when the name is taken, [`GraphError::Data`] when the number of bytes does not fit.
    pub fn initializer(
        &mut self,
        name: &str,
        dtype: DType,
        shape: impl Into<Shape>,
        bytes: Vec<u8>,
    ) -> Result<Tensor, GraphError> {
        let shape = shape.into();
        let dims = self.weight_dims(name, dtype, &shape, bytes.len() as u64)?;
        let name = self.claim(self.scoped(name))?;
        self.initializers.push(TensorProto {
            dims,
            data_type: dtype.code(),
            name: name.clone(),
            raw_data: Some(bytes),
            ..TensorProto::default()
        });
        Ok(self.value(name, Origin::Initializer, dtype, shape))
    }

    /// A weight called `name` with its elements in another file, which is never read here.
    ///
    /// # Errors
    /// As [`Self::initializer`]; [`GraphError::Data`] also when the offset is not a multiple of the element's size.
    pub fn external(
        &mut self,
        name: &str,
        dtype: DType,
        shape: impl Into<Shape>,
        data: &External,
    ) -> Result<Tensor, GraphError> {
        let shape = shape.into();
        let dims = self.weight_dims(name, dtype, &shape, data.length)?;
        if !data.offset.is_multiple_of(dtype.size() as u64) {
            let reason = format!("offset {} is not a multiple of {} bytes", data.offset, dtype.size());
            return Err(GraphError::Data { at: self.scoped(name), reason });
        }
        let name = self.claim(self.scoped(name))?;
        let entry = |key: &str, value: String| StringStringEntry { key: key.to_owned(), value };
        self.initializers.push(TensorProto {
            dims,
            data_type: dtype.code(),
            name: name.clone(),
            external_data: vec![
                entry("location", data.location.clone()),
                entry("offset", data.offset.to_string()),
                entry("length", data.length.to_string()),
            ],
            data_location: Some(1),
            ..TensorProto::default()
        });
        Ok(self.value(name, Origin::Initializer, dtype, shape))
    }

    /// A constant of floats, stored as `dtype`, which must be a float type. Small equal constants are stored once.
    ///
    /// # Errors
    /// [`GraphError::Dtype`] or [`GraphError::Data`].
    pub fn floats(&mut self, dtype: DType, shape: impl Into<Shape>, values: &[f32]) -> Result<Tensor, GraphError> {
        let bytes = match dtype {
            DType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            DType::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
            _ => return Err(self.dtype_error("constant", format!("floats cannot be stored as {dtype}"))),
        };
        self.constant(dtype, shape.into(), bytes)
    }

    /// A constant of 64-bit integers; as [`Self::floats`].
    ///
    /// # Errors
    /// [`GraphError::Data`] when the number of values does not fit the shape.
    pub fn ints(&mut self, shape: impl Into<Shape>, values: &[i64]) -> Result<Tensor, GraphError> {
        self.constant(DType::I64, shape.into(), values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// A constant without dimensions, of the given type. Integers take the value rounded toward zero, within their range.
    ///
    /// # Errors
    /// [`GraphError::Dtype`] for `bool`.
    pub fn scalar(&mut self, dtype: DType, value: f64) -> Result<Tensor, GraphError> {
        let bytes = match dtype {
            DType::F32 => (value as f32).to_le_bytes().to_vec(),
            DType::F16 => f16::from_f64(value).to_le_bytes().to_vec(),
            DType::U8 => vec![value as u8],
            DType::I32 => (value as i32).to_le_bytes().to_vec(),
            DType::I64 => (value as i64).to_le_bytes().to_vec(),
            DType::Bool => return Err(self.dtype_error("constant", "a number cannot be stored as bool".to_owned())),
        };
        self.constant(dtype, Shape::from([0_u64; 0]), bytes)
    }

    fn constant(&mut self, dtype: DType, shape: Shape, bytes: Vec<u8>) -> Result<Tensor, GraphError> {
        let key = (dtype, shape, bytes);
        if let Some(known) = self.constants.get(&key) {
            return Ok(known.clone());
        }
        let (dtype, shape, bytes) = key;
        let dims = self.weight_dims("constant", dtype, &shape, bytes.len() as u64)?;
        // Shared by several scopes, so named outside of them.
        let name = self.fresh("constant".to_owned());
        self.initializers.push(TensorProto {
            dims,
            data_type: dtype.code(),
            name: name.clone(),
            raw_data: Some(bytes.clone()),
            ..TensorProto::default()
        });
        let tensor = self.value(name, Origin::Initializer, dtype, shape.clone());
        if bytes.len() <= SHARED_CONSTANT {
            self.constants.insert((dtype, shape, bytes), tensor.clone());
        }
        Ok(tensor)
    }

    /// Closes the graph.
    ///
    /// # Errors
    /// [`GraphError::Invalid`] when there is no output, or when the finished graph breaks a rule of the format.
    pub fn finish(self) -> Result<Model, GraphError> {
        let info = |&value: &usize| {
            let value = &self.values[value];
            value_info(&value.name, value.dtype, &value.shape)
        };
        let name_of = |value: usize| self.values[value].name.clone();
        let between =
            self.values.iter().enumerate().filter(|(i, v)| v.origin == Origin::Node && !self.outputs.contains(i));
        let graph = GraphProto {
            name: self.name.clone(),
            input: self.inputs.iter().map(info).collect(),
            output: self.outputs.iter().map(info).collect(),
            value_info: between.map(|(i, _)| info(&i)).collect(),
            node: self
                .nodes
                .iter()
                .map(|node| NodeProto {
                    input: node.inputs.iter().map(|input| input.map(name_of).unwrap_or_default()).collect(),
                    output: node.outputs.iter().map(|&output| name_of(output)).collect(),
                    name: node.name.clone(),
                    op_type: node.op.to_owned(),
                    attribute: node.attributes.clone(),
                })
                .collect(),
            initializer: self.initializers,
        };
        Model::new(graph)
    }

    /// Adds a node with one output.
    pub(super) fn node(
        &mut self,
        op: &'static str,
        inputs: &[&Tensor],
        attributes: Vec<AttributeProto>,
        dtype: DType,
        shape: Shape,
    ) -> Result<Tensor, GraphError> {
        let inputs: Vec<_> = inputs.iter().map(|tensor| Some(*tensor)).collect();
        self.node_with_gaps(op, &inputs, attributes, dtype, shape)
    }

    /// As [`Self::node`], with `None` for an optional input that is left out.
    pub(super) fn node_with_gaps(
        &mut self,
        op: &'static str,
        inputs: &[Option<&Tensor>],
        attributes: Vec<AttributeProto>,
        dtype: DType,
        shape: Shape,
    ) -> Result<Tensor, GraphError> {
        let mut outputs = self.node_of_many(op, inputs, attributes, vec![(dtype, shape)])?;
        // One type went in, so one tensor came out.
        outputs.pop().ok_or_else(|| GraphError::Invalid(format!("{op} has no output")))
    }

    /// As [`Self::node_with_gaps`], with an output for every type in `types`.
    pub(super) fn node_of_many(
        &mut self,
        op: &'static str,
        inputs: &[Option<&Tensor>],
        attributes: Vec<AttributeProto>,
        types: Vec<(DType, Shape)>,
    ) -> Result<Vec<Tensor>, GraphError> {
        for tensor in inputs.iter().flatten() {
            self.own(op, tensor)?;
        }
        let name = self.fresh(self.scoped(op));
        let several = types.len() > 1;
        let outputs: Vec<Tensor> = types
            .into_iter()
            .enumerate()
            .map(|(i, (dtype, shape))| {
                let value_name = if several { self.fresh(format!("{name}:{i}")) } else { name.clone() };
                self.value(value_name, Origin::Node, dtype, shape)
            })
            .collect();
        self.nodes.push(Node {
            name,
            op,
            inputs: inputs.iter().map(|input| input.map(|tensor| tensor.value)).collect(),
            outputs: outputs.iter().map(|tensor| tensor.value).collect(),
            attributes,
        });
        Ok(outputs)
    }

    pub(super) fn own(&self, op: &str, tensor: &Tensor) -> Result<(), GraphError> {
        if tensor.graph == self.id {
            return Ok(());
        }
        Err(GraphError::Foreign { at: self.scoped(op) })
    }

    pub(super) fn dtype_error(&self, op: &str, reason: String) -> GraphError {
        GraphError::Dtype { at: self.scoped(op), reason }
    }

    pub(super) fn shape_error(&self, op: &str, reason: String) -> GraphError {
        GraphError::Shape { at: self.scoped(op), reason }
    }

    pub(super) fn data_error(&self, op: &str, reason: String) -> GraphError {
        GraphError::Data { at: self.scoped(op), reason }
    }

    fn value(&mut self, name: String, origin: Origin, dtype: DType, shape: Shape) -> Tensor {
        self.values.push(Value { name, origin, dtype, shape: shape.clone() });
        Tensor { value: self.values.len() - 1, graph: self.id, dtype, shape }
    }

    fn scoped(&self, name: &str) -> String {
        if self.scope.is_empty() { name.to_owned() } else { format!("{}/{name}", self.scope) }
    }

    /// Takes a name that the caller chose.
    fn claim(&mut self, name: String) -> Result<String, GraphError> {
        if name.is_empty() || self.names.contains_key(&name) {
            return Err(GraphError::Name { name });
        }
        self.names.insert(name.clone(), 0);
        Ok(name)
    }

    /// Takes `base`, or `base` with the first free number behind it.
    fn fresh(&mut self, base: String) -> String {
        let mut number = match self.names.get(&base) {
            None => {
                self.names.insert(base.clone(), 0);
                return base;
            }
            Some(&last) => last,
        };
        let name = loop {
            number += 1;
            let name = format!("{base}_{number}");
            if !self.names.contains_key(&name) {
                break name;
            }
        };
        self.names.insert(base, number);
        self.names.insert(name.clone(), 0);
        name
    }

    fn weight_dims(&self, name: &str, dtype: DType, shape: &Shape, bytes: u64) -> Result<Vec<i64>, GraphError> {
        let wrong = |reason: String| GraphError::Data { at: self.scoped(name), reason };
        let elements = shape.elements().ok_or_else(|| wrong(format!("shape {shape} is not fixed")))?;
        if elements.checked_mul(dtype.size() as u64) != Some(bytes) {
            return Err(wrong(format!("{bytes} bytes do not fill {dtype} {shape}")));
        }
        Ok(shape.dims().iter().filter_map(Dim::fixed).map(|n| n as i64).collect())
    }
}

fn value_info(name: &str, dtype: DType, shape: &Shape) -> ValueInfoProto {
    let dim = |dim: &Dim| DimensionProto {
        value: Some(match dim {
            Dim::Fixed(n) => DimensionValue::DimValue(*n as i64),
            Dim::Symbol(name) => DimensionValue::DimParam(name.to_string()),
        }),
    };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            tensor_type: Some(TensorTypeProto {
                elem_type: dtype.code(),
                shape: Some(TensorShapeProto { dim: shape.dims().iter().map(dim).collect() }),
            }),
        }),
    }
}

/// A whole number as an attribute.
pub(super) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        i: Some(value),
        r#type: AttributeType::Int.into(),
        ..AttributeProto::default()
    }
}

/// Whole numbers as an attribute.
pub(super) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        ints: values.to_vec(),
        r#type: AttributeType::Ints.into(),
        ..AttributeProto::default()
    }
}

/// A number as an attribute.
pub(super) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        f: Some(value),
        r#type: AttributeType::Float.into(),
        ..AttributeProto::default()
    }
}

/// A text as an attribute.
pub(super) fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        s: Some(value.as_bytes().to_vec()),
        r#type: AttributeType::String.into(),
        ..AttributeProto::default()
    }
}
