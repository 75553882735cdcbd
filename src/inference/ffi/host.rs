//! Numbers as bytes, and memory of the host that a session may read and write.

use std::ptr::NonNull;

/// The bytes of a slice of tensor elements.
pub fn bytes_of<T: super::super::Element>(data: &[T]) -> &[u8] {
    // SAFETY: `Element` is sealed to numbers without padding or invalid bytes; the length is that of the slice.
    unsafe { std::slice::from_raw_parts(data.as_ptr().cast(), size_of_val(data)) }
}

/// As [`bytes_of`], writable.
pub fn bytes_of_mut<T: super::super::Element>(data: &mut [T]) -> &mut [u8] {
    // SAFETY: as in `bytes_of`; every bit pattern is a valid element, so writing any byte is sound.
    unsafe { std::slice::from_raw_parts_mut(data.as_mut_ptr().cast(), size_of_val(data)) }
}

/// Memory of the host for one tensor: zeroed, aligned for every element type, at an address that stays.
pub struct Block {
    words: NonNull<[u64]>,
    bytes: usize,
}

// SAFETY: the block owns its memory alone.
unsafe impl Send for Block {}

impl Block {
    /// Room for `bytes` bytes.
    pub fn new(bytes: usize) -> Self {
        // At least one word, so that an empty tensor has an address too.
        let words = Box::leak(vec![0_u64; bytes.div_ceil(8).max(1)].into_boxed_slice());
        Self { words: NonNull::from(words), bytes }
    }

    /// Where it begins.
    pub fn address(&self) -> *mut u8 {
        self.words.as_ptr().cast()
    }

    /// The contents. No session runs meanwhile: who owns the block owns the session.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the words are there and initialised as long as `self`, and hold `bytes` bytes.
        unsafe { std::slice::from_raw_parts(self.address(), self.bytes) }
    }

    /// As [`Self::bytes`], writable.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.address(), self.bytes) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: leaked from a box in `new`, taken back once.
        drop(unsafe { Box::from_raw(self.words.as_ptr()) });
    }
}
