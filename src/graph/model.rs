//! A finished graph: checked, and written as ONNX.

use std::collections::HashSet;
use std::io::Write;
use std::path::Path;

use prost::Message;
use sha2::{Digest, Sha256};

use super::GraphError;
use super::proto::{GraphProto, ModelProto, OperatorSetId};

/// Version of ONNX's operators that nodes are written in.
pub const OPSET: i64 = 18;

/// Version of the file format that belongs to [`OPSET`].
const IR_VERSION: i64 = 8;

/// Protobuf messages end at 2 GiB; larger graphs keep their weights in another file.
const MAX_BYTES: usize = i32::MAX as usize;

/// A finished graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Model(ModelProto);

impl Model {
    pub(super) fn new(graph: GraphProto) -> Result<Self, GraphError> {
        check(&graph)?;
        Ok(Self(ModelProto {
            ir_version: Some(IR_VERSION),
            producer_name: "weir".to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: Some(graph),
            opset_import: vec![OperatorSetId { domain: String::new(), version: OPSET }],
            metadata_props: Vec::new(),
        }))
    }

    /// The message itself.
    pub fn proto(&self) -> &ModelProto {
        &self.0
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.0.graph.as_ref().map_or(0, |graph| graph.node.len())
    }

    /// SHA-256 of what the graph computes: its nodes, its ports, its weights. Of a weight in another file the name of the file
    /// counts and not the place there: the name must say what is in it.
    pub fn content(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        if let Some(graph) = &self.0.graph {
            let GraphProto { node, name, input, output, .. } = graph;
            let (initializer, value_info) = (Vec::new(), Vec::new());
            let (node, name, input, output) = (node.clone(), name.clone(), input.clone(), output.clone());
            part(&GraphProto { node, name, input, output, initializer, value_info }.encode_to_vec());
            for weight in &graph.initializer {
                part(weight.name.as_bytes());
                part(&weight.data_type.to_le_bytes());
                part(&weight.dims.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>());
                part(weight.raw_data.as_deref().unwrap_or_default());
                let location = weight.external_data.iter().find(|entry| entry.key == "location");
                part(location.map_or(&[], |entry| entry.value.as_bytes()));
            }
        }
        hash.finalize().into()
    }

    /// The model as ONNX.
    ///
    /// # Errors
    /// [`GraphError::TooLarge`] above 2 GiB.
    pub fn to_bytes(&self) -> Result<Vec<u8>, GraphError> {
        let bytes = self.0.encoded_len();
        if bytes > MAX_BYTES {
            return Err(GraphError::TooLarge { bytes });
        }
        Ok(self.0.encode_to_vec())
    }

    /// Writes the model to `path`, whole or not at all: the bytes go to a file beside it that is then renamed.
    ///
    /// # Errors
    /// As [`Self::to_bytes`]; [`GraphError::Io`].
    pub fn write(&self, path: &Path) -> Result<(), GraphError> {
        let io = |source| GraphError::Io { path: path.to_path_buf(), source };
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let mut file = std::fs::File::create(&partial).map_err(io)?;
        file.write_all(&self.to_bytes()?).map_err(io)?;
        file.sync_all().map_err(io)?;
        std::fs::rename(&partial, path).map_err(io)
    }
}

/// Checks the rules of the format that a runtime would report late and without a place: every value is defined once and
/// before its use, node names are unique, every output exists.
///
/// # Errors
/// [`GraphError::Invalid`] with the first breach.
pub fn check(graph: &GraphProto) -> Result<(), GraphError> {
    let invalid = |reason: String| Err(GraphError::Invalid(reason));
    let mut defined = HashSet::new();
    let fed = graph.input.iter().map(|input| &input.name);
    for name in fed.chain(graph.initializer.iter().map(|weight| &weight.name)) {
        if name.is_empty() || !defined.insert(name.as_str()) {
            return invalid(format!("the value {name:?} is defined twice or has no name"));
        }
    }
    let mut nodes = HashSet::new();
    for node in &graph.node {
        if node.name.is_empty() || !nodes.insert(node.name.as_str()) {
            return invalid(format!("the node name {:?} is used twice or empty", node.name));
        }
        if let Some(early) = node.input.iter().find(|name| !name.is_empty() && !defined.contains(name.as_str())) {
            return invalid(format!("{} reads {early} before it is defined", node.name));
        }
        for name in &node.output {
            if name.is_empty() || !defined.insert(name.as_str()) {
                return invalid(format!("{} defines {name:?} again", node.name));
            }
        }
    }
    if graph.output.is_empty() {
        return invalid("the graph has no output".to_owned());
    }
    match graph.output.iter().find(|output| !defined.contains(output.name.as_str())) {
        Some(output) => invalid(format!("the output {} is never defined", output.name)),
        None => Ok(()),
    }
}
