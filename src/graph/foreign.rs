//! What an ONNX file that somebody else wrote takes and gives, read without its weights.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::Path;

use prost::Message;

use super::proto::{DimensionValue, ValueInfoProto};
use super::{DType, GraphError};

/// Longest name, and description of a value, in bytes.
const MAX_PIECE: u64 = 1 << 20;

/// An input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignPort {
    /// Its name.
    pub name: String,
    /// Type of its elements; `None` for one that this crate has no name for, or for what is no tensor.
    pub dtype: Option<DType>,
    /// Its dimensions, `None` where one is open; `None` where even their number is.
    pub shape: Option<Vec<Option<u64>>>,
}

/// An ONNX file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Foreign {
    /// What is fed, weights left out.
    pub inputs: Vec<ForeignPort>,
    /// What is fetched.
    pub outputs: Vec<ForeignPort>,
    /// Whether weights lie in other files.
    pub beside: bool,
}

impl Foreign {
    /// Reads the file at `path`; what it computes is not looked at.
    ///
    /// # Errors
    /// [`GraphError::Invalid`] when it cannot be read or is no ONNX.
    pub fn read(path: &Path) -> Result<Self, GraphError> {
        let wrong = |reason: String| GraphError::Invalid(format!("{}: {reason}", path.display()));
        let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
        let length = file.metadata().map_err(|error| wrong(error.to_string()))?.len();
        let read = Self::of(BufReader::new(file), length);
        let foreign = read.map_err(|error| wrong(format!("it cannot be read as ONNX: {error}")))?;
        match foreign.inputs.is_empty() || foreign.outputs.is_empty() {
            true => Err(wrong("it is no ONNX graph with inputs and outputs".to_owned())),
            false => Ok(foreign),
        }
    }

    fn of(read: impl Read + io::Seek, length: u64) -> io::Result<Self> {
        let mut foreign = Self::default();
        let mut weights: HashSet<String> = HashSet::new();
        let mut cursor = Cursor { read, at: 0 };
        cursor.fields(length, |cursor, model| match model.number {
            // ModelProto.graph
            7 => cursor.fields(model.end, |cursor, graph| {
                match graph.number {
                    // GraphProto.initializer: its name, and where its elements are
                    5 => cursor.fields(graph.end, |cursor, tensor| {
                        match tensor.number {
                            8 => {
                                weights.insert(String::from_utf8_lossy(&cursor.bytes(&tensor)?).into_owned());
                            }
                            14 => foreign.beside |= tensor.value == 1,
                            _ => {}
                        }
                        Ok(())
                    })?,
                    11 => foreign.inputs.push(port(&cursor.bytes(&graph)?)?),
                    12 => foreign.outputs.push(port(&cursor.bytes(&graph)?)?),
                    _ => {}
                }
                Ok(())
            }),
            _ => Ok(()),
        })?;
        // Old files list weights among the inputs.
        foreign.inputs.retain(|input| !weights.contains(&input.name));
        Ok(foreign)
    }
}

fn port(bytes: &[u8]) -> io::Result<ForeignPort> {
    let value = ValueInfoProto::decode(bytes).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
    let tensor = value.r#type.and_then(|ty| ty.tensor_type);
    let known = [DType::F32, DType::F16, DType::U8, DType::I32, DType::I64, DType::Bool];
    let dtype = tensor.as_ref().and_then(|tensor| known.into_iter().find(|dtype| dtype.code() == tensor.elem_type));
    let shape = tensor.and_then(|tensor| tensor.shape).map(|shape| {
        let open = |dim: super::proto::DimensionProto| match dim.value {
            Some(DimensionValue::DimValue(n)) => u64::try_from(n).ok().filter(|&n| n > 0),
            _ => None,
        };
        shape.dim.into_iter().map(open).collect()
    });
    Ok(ForeignPort { name: value.name, dtype, shape })
}

/// A field of a message.
struct Field {
    number: u64,
    /// The number, of one that is a number.
    value: u64,
    /// Where its bytes end, of one that has bytes.
    end: u64,
}

/// Walks over the fields of protobuf messages; what is not asked for is skipped on the disk.
struct Cursor<R> {
    read: R,
    at: u64,
}

impl<R: Read + io::Seek> Cursor<R> {
    /// Calls `each` for every field up to `end`.
    fn fields(&mut self, end: u64, mut each: impl FnMut(&mut Self, Field) -> io::Result<()>) -> io::Result<()> {
        let wrong = |reason: &str| io::Error::new(ErrorKind::InvalidData, reason);
        while self.at < end {
            let key = self.number()?;
            let mut field = Field { number: key >> 3, value: 0, end: self.at };
            let length = match key & 7 {
                0 => {
                    field.value = self.number()?;
                    0
                }
                1 => 8,
                2 => self.number()?,
                5 => 4,
                _ => return Err(wrong("a field of no known kind")),
            };
            field.end =
                self.at.checked_add(length).filter(|&to| to <= end).ok_or_else(|| wrong("it ends too early"))?;
            let to = field.end;
            each(self, field)?;
            if self.at != to {
                self.read.seek(io::SeekFrom::Start(to))?;
                self.at = to;
            }
        }
        match self.at == end {
            true => Ok(()),
            false => Err(wrong("a field reaches over its message")),
        }
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            self.read.read_exact(&mut byte)?;
            self.at += 1;
            number |= u64::from(byte[0] & 0x7F) << shift;
            if byte[0] < 0x80 {
                return Ok(number);
            }
        }
        Err(io::Error::new(ErrorKind::InvalidData, "a number without an end"))
    }

    fn bytes(&mut self, field: &Field) -> io::Result<Vec<u8>> {
        let length = field.end - self.at;
        if length > MAX_PIECE {
            return Err(io::Error::new(ErrorKind::InvalidData, "a name or a description of more than a mebibyte"));
        }
        let mut bytes = vec![0; length as usize];
        self.read.read_exact(&mut bytes)?;
        self.at = field.end;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Cursor as Bytes;

    use super::super::GraphBuilder;
    use super::*;

    fn graph() -> Vec<u8> {
        let mut g = GraphBuilder::new("any");
        let x = g.input("x", DType::F32, [1, 3, 8, 8]).unwrap();
        let weights = g.floats(DType::F32, [3], &[1.0, 2.0, 3.0]).unwrap();
        let weights = g.reshape(&weights, &[1, 3, 1, 1]).unwrap();
        let y = g.mul(&x, &weights).unwrap();
        g.output("y", &y).unwrap();
        g.finish().unwrap().to_bytes().unwrap()
    }

    #[test]
    fn ports_are_read_and_weights_are_not() {
        let bytes = graph();
        let foreign = Foreign::of(Bytes::new(&bytes), bytes.len() as u64).unwrap();
        let shape = Some(vec![Some(1), Some(3), Some(8), Some(8)]);
        let port = |name: &str| ForeignPort { name: name.to_owned(), dtype: Some(DType::F32), shape: shape.clone() };
        assert_eq!(foreign, Foreign { inputs: vec![port("x")], outputs: vec![port("y")], beside: false });
    }

    #[test]
    fn many_weights_listed_as_inputs_take_no_long_time() {
        // Field 5 with a name (field 8), and field 11 with a name (field 1), of three bytes each.
        let mut inside = Vec::new();
        for i in 0..100_000_u32 {
            let [a, b, c, _] = i.to_le_bytes();
            inside.extend([5 << 3 | 2, 5, 8 << 3 | 2, 3, a & 0x7F, b & 0x7F, c & 0x7F]);
            inside.extend([11 << 3 | 2, 5, 1 << 3 | 2, 3, a & 0x7F, b & 0x7F, c & 0x7F]);
        }
        let mut bytes = vec![7 << 3 | 2];
        let mut length = inside.len();
        while length > 0x7F {
            bytes.push(length as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
        bytes.extend(inside);
        // By comparing each with each these were 10 000 000 000 steps.
        let foreign = Foreign::of(Bytes::new(&bytes), bytes.len() as u64).unwrap();
        assert_eq!((foreign.inputs.len(), foreign.outputs.len()), (0, 0));
    }

    #[test]
    fn what_is_cut_or_broken_is_an_error_or_another_graph_and_never_a_panic() {
        let bytes = graph();
        let whole = Foreign::of(Bytes::new(&bytes), bytes.len() as u64).unwrap();
        for cut in 0..bytes.len() {
            let _ = Foreign::of(Bytes::new(&bytes[..cut]), cut as u64);
            for flip in [0x01, 0x80, 0xFF] {
                let mut broken = bytes.clone();
                broken[cut] ^= flip;
                if let Ok(foreign) = Foreign::of(Bytes::new(&broken), broken.len() as u64) {
                    assert!(foreign.inputs.len() <= whole.inputs.len() + 1);
                }
            }
        }
        let endless = [0xFF; 40];
        assert!(Foreign::of(Bytes::new(&endless), 40).is_err());
        assert!(Foreign::read(Path::new("/nonexistent.onnx")).unwrap_err().to_string().contains("/nonexistent.onnx"));
    }
}
