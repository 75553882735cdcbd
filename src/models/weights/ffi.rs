//! Mapped files and the matrix product, behind safe functions.
#![allow(unsafe_code)]

use std::fs::File;

use memmap2::{Mmap, UncheckedAdvice};

/// A file mapped for reading.
pub(super) struct Mapped(Mmap);

impl Mapped {
    /// Maps the whole of `file`.
    pub(super) fn new(file: &File) -> std::io::Result<Self> {
        // SAFETY: the mapping is private and read-only. Files of weights are written once, under another name, and renamed
        // when they are whole; that nobody cuts them short afterwards is a condition of the module.
        unsafe { Mmap::map(file) }.map(Self)
    }

    /// The bytes of the file.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Says that `start..start + length` is not needed again soon, so that it does not count as memory in use.
    pub(super) fn release(&self, start: usize, length: usize) {
        // SAFETY: for a mapping that is read-only and backed by a file, pages that are dropped come back from the file with
        // the same content.
        let advised = unsafe { self.0.unchecked_advise_range(UncheckedAdvice::DontNeed, start, length) };
        // A hint: without it there is more in memory and nothing else changes.
        let _ = advised;
    }
}

/// `c += factor · a · b`, row-major: `a` (m, k), `b` (k, n), `c` (m, n). Panics when the lengths do not fit.
pub(super) fn add_product(c: &mut [f32], a: &[f32], b: &[f32], [m, k, n]: [usize; 3], factor: f32) {
    assert!(a.len() == m * k && b.len() == k * n && c.len() == m * n, "matrices of other sizes");
    // SAFETY: the assertion above makes every element that the strides reach lie inside its slice, and `c` is borrowed
    // alone.
    unsafe {
        matrixmultiply::sgemm(
            m,
            k,
            n,
            factor,
            a.as_ptr(),
            k as isize,
            1,
            b.as_ptr(),
            n as isize,
            1,
            1.0,
            c.as_mut_ptr(),
            n as isize,
            1,
        );
    }
}
