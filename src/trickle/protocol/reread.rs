//! Reading a segment whole although its connection breaks.

/// What was read of one segment, over as many answers as it takes.
///
/// A server keeps the newest [`SLOTS`](super::SLOTS) segments, and a segment's bytes never change. So a body that broke off
/// is asked for again, and what was read before is passed over.
#[derive(Clone, Copy, Debug)]
pub struct Reread {
    read: u64,
    /// Bytes of the current answer that were read before.
    pass: u64,
    barren: u32,
    tries: u32,
}

impl Reread {
    /// Nothing read yet. After `tries` answers in a row without a new byte the segment is given up.
    pub fn new(tries: u32) -> Self {
        Self { read: 0, pass: 0, barren: 0, tries }
    }

    /// `len` bytes came. How many of them, at the front, were read before.
    pub fn came(&mut self, len: usize) -> usize {
        let known = self.pass.min(len as u64);
        self.pass -= known;
        let new = len as u64 - known;
        self.read += new;
        if new > 0 {
            self.barren = 0;
        }
        known as usize
    }

    /// The answer broke off, or there was none. Whether to ask again.
    pub fn broke(&mut self) -> bool {
        self.barren += 1;
        self.pass = self.read;
        self.barren <= self.tries
    }

    /// True when this is not the first try since the last new byte: a wait is due before it.
    pub fn slow(&self) -> bool {
        self.barren > 1
    }

    /// The answer ended by itself. False when it is shorter than what was read before: another segment.
    pub fn whole(&self) -> bool {
        self.pass == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_was_read_is_passed_over_and_barren_answers_end_it() {
        let mut reread = Reread::new(2);
        assert_eq!(reread.came(10), 0);
        assert!(reread.broke() && !reread.slow() && !reread.whole());
        assert_eq!((reread.came(4), reread.came(10)), (4, 6));
        assert!(reread.whole());
        assert!(reread.broke());
        assert_eq!(reread.came(14), 14);
        assert!(reread.broke() && reread.slow());
        assert!(!reread.broke());
    }

    proptest! {
        #[test]
        fn every_byte_is_read_once(len in 1usize..400, cuts in proptest::collection::vec((1usize..400, 1usize..50), 0..8)) {
            let segment: Vec<usize> = (0..len).collect();
            let (mut reread, mut read) = (Reread::new(100), Vec::new());
            for (index, &(upto, step)) in cuts.iter().chain([&(len, 7)]).enumerate() {
                for piece in segment[..upto.min(len)].chunks(step) {
                    read.extend_from_slice(&piece[reread.came(piece.len())..]);
                }
                prop_assert!(index == cuts.len() || reread.broke());
            }
            prop_assert!(reread.whole());
            prop_assert_eq!(read, segment);
        }
    }
}
