//! FlatBuffers, read in place: every offset is checked against the bytes, so a broken file is refused and never read beyond.
//!
//! Layout: <https://flatbuffers.dev/internals>. The generated readers of the `flatbuffers` crate would need TensorFlow Lite's
//! schema compiled and a verifier; the few tables read here need neither.

use super::TfliteError;

/// A table of fields.
#[derive(Clone, Copy)]
pub(super) struct Table<'a> {
    data: &'a [u8],
    at: usize,
}

/// A vector of elements of some size.
#[derive(Clone, Copy)]
pub(super) struct Vector<'a> {
    data: &'a [u8],
    at: usize,
    pub len: usize,
}

fn bytes<const N: usize>(data: &[u8], at: usize) -> Result<[u8; N], TfliteError> {
    let part = at.checked_add(N).and_then(|end| data.get(at..end));
    part.and_then(|part| part.try_into().ok()).ok_or_else(|| TfliteError::Broken(format!("byte {at} is not there")))
}

/// Where the offset at `at` leads.
fn follow(data: &[u8], at: usize) -> Result<usize, TfliteError> {
    let offset = u32::from_le_bytes(bytes(data, at)?) as usize;
    at.checked_add(offset)
        .filter(|&to| to < data.len())
        .ok_or_else(|| TfliteError::Broken(format!("the offset at byte {at} leads nowhere")))
}

impl<'a> Table<'a> {
    pub fn root(data: &'a [u8]) -> Result<Self, TfliteError> {
        Ok(Self { data, at: follow(data, 0)? })
    }

    /// Where field `index` stands, if it is there.
    fn field(&self, index: usize) -> Result<Option<usize>, TfliteError> {
        let back = i64::from(i32::from_le_bytes(bytes(self.data, self.at)?));
        let table = usize::try_from(self.at as i64 - back);
        let table = table.map_err(|_| TfliteError::Broken(format!("the table at byte {} has no fields", self.at)))?;
        let length = usize::from(u16::from_le_bytes(bytes(self.data, table)?));
        let slot = 4 + 2 * index;
        if slot + 2 > length {
            return Ok(None);
        }
        let offset = usize::from(u16::from_le_bytes(bytes(self.data, table.saturating_add(slot))?));
        Ok((offset != 0).then(|| self.at.saturating_add(offset)))
    }

    pub fn byte(&self, index: usize, default: u8) -> Result<u8, TfliteError> {
        self.field(index)?.map_or(Ok(default), |at| Ok(bytes::<1>(self.data, at)?[0]))
    }

    pub fn int(&self, index: usize, default: i32) -> Result<i32, TfliteError> {
        self.field(index)?.map_or(Ok(default), |at| Ok(i32::from_le_bytes(bytes(self.data, at)?)))
    }

    pub fn table(&self, index: usize) -> Result<Option<Table<'a>>, TfliteError> {
        let at = self.field(index)?.map(|at| follow(self.data, at)).transpose()?;
        Ok(at.map(|at| Table { data: self.data, at }))
    }

    /// The vector at field `index`, of elements of `size` bytes; an empty one where it is absent.
    pub fn vector(&self, index: usize, size: usize) -> Result<Vector<'a>, TfliteError> {
        let Some(at) = self.field(index)? else { return Ok(Vector { data: self.data, at: 0, len: 0 }) };
        let at = follow(self.data, at)?;
        let len = u32::from_le_bytes(bytes(self.data, at)?) as usize;
        let end = len.checked_mul(size).and_then(|bytes| (at + 4).checked_add(bytes));
        if end.is_none_or(|end| end > self.data.len()) {
            return Err(TfliteError::Broken(format!("the vector at byte {at} is longer than the file")));
        }
        Ok(Vector { data: self.data, at: at + 4, len })
    }

    /// All of a vector of whole numbers, of which there may be `most`.
    pub fn ints(&self, index: usize, most: usize) -> Result<Vec<i32>, TfliteError> {
        let vector = self.vector(index, 4)?;
        // Many tables may share one vector, so each is kept short before it is copied.
        if vector.len > most {
            return Err(TfliteError::Unknown(format!("{} numbers where {most} are the most", vector.len)));
        }
        (0..vector.len).map(|i| Ok(i32::from_le_bytes(bytes(self.data, vector.at + 4 * i)?))).collect()
    }
}

impl<'a> Vector<'a> {
    pub fn table(&self, index: usize) -> Result<Table<'a>, TfliteError> {
        if index >= self.len {
            return Err(TfliteError::Broken(format!("there is no element {index} of {}", self.len)));
        }
        Ok(Table { data: self.data, at: follow(self.data, self.at + 4 * index)? })
    }

    /// Where the bytes of a vector of bytes stand in the file.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.at..self.at + self.len
    }
}
