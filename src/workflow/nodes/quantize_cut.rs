//! Palettes by median cut, as Pillow makes them (`Image.quantize` with `MEDIANCUT`): which colours there are, which boxes they
//! are cut into, and the mean of each.

/// Most colours that are told from each other; with more, the lower bits of all of them are left out.
const COLOURS: usize = 65_536;
/// How much a difference of red, green, blue counts when the side to cut is chosen.
const WEIGHTS: [u32; 3] = [77, 150, 29];

/// A colour of the picture, without its lower bits where they are left out.
struct Entry {
    colour: [u8; 3],
    count: u32,
    /// Of all pixels of it, with their lower bits.
    sums: [u64; 3],
}

/// Entries from `begin` to `end` of the order, and the pixels of them.
struct Box {
    begin: usize,
    end: usize,
    pixels: u32,
    halves: Option<[usize; 2]>,
}

/// Cuts palettes out of pictures. Its buffers stay from picture to picture.
#[derive(Default)]
pub(super) struct Cutter {
    keys: Vec<u64>,
    entries: Vec<Entry>,
    order: Vec<u32>,
    aside: Vec<u32>,
    boxes: Vec<Box>,
    heap: Vec<usize>,
}

impl Cutter {
    /// At most `most` colours (from 1 to 256) for `pixels`, whole bytes of red, green, blue; none for no pixel.
    pub fn palette(&mut self, pixels: &[u8], most: usize) -> Vec<[u8; 3]> {
        self.count(pixels);
        if self.entries.is_empty() {
            return Vec::new();
        }
        self.order.clear();
        self.order.extend(0..self.entries.len() as u32);
        self.boxes.clear();
        self.heap.clear();
        let pixels = (pixels.len() / 3) as u32;
        self.boxes.push(Box { begin: 0, end: self.entries.len(), pixels, halves: None });
        self.add(0);
        for _ in 1..most {
            // A box of one colour is not cut, and not looked at again.
            let wide = loop {
                match self.remove() {
                    Some(largest) if self.sides(largest) == [0; 3] => {}
                    other => break other,
                }
            };
            let Some(wide) = wide else { break };
            for half in self.cut(wide) {
                self.add(half);
            }
        }
        let mut palette = Vec::with_capacity(most);
        let mut open = vec![0];
        while let Some(at) = open.pop() {
            match self.boxes[at].halves {
                Some([left, right]) => open.extend([right, left]),
                None => palette.push(self.mean(at)),
            }
        }
        palette
    }

    /// Fills the entries: each colour once, with so many bits left out that there are at most [`COLOURS`].
    fn count(&mut self, pixels: &[u8]) {
        for shift in 0..8 {
            self.keys.clear();
            self.keys.extend(pixels.as_chunks::<3>().0.iter().map(|&[r, g, b]| {
                let key = |r: u8, g: u8, b: u8| u64::from(r) << 16 | u64::from(g) << 8 | u64::from(b);
                key(r >> shift, g >> shift, b >> shift) << 24 | key(r, g, b)
            }));
            self.keys.sort_unstable();
            let distinct = self.keys.chunk_by(|a, b| a >> 24 == b >> 24).count();
            if distinct <= COLOURS {
                break;
            }
        }
        self.entries.clear();
        self.entries.extend(self.keys.chunk_by(|a, b| a >> 24 == b >> 24).map(|run| {
            let byte = |key: u64, at: u32| (key >> at) as u8;
            let first = run.first().copied().unwrap_or_default();
            let mut sums = [0; 3];
            for &key in run {
                for (sum, at) in sums.iter_mut().zip([16, 8, 0]) {
                    *sum += u64::from(byte(key, at));
                }
            }
            Entry { colour: [40, 32, 24].map(|at| byte(first, at)), count: run.len() as u32, sums }
        }));
    }

    /// The differences between the largest and the smallest red, green, blue of a box.
    fn sides(&self, at: usize) -> [u32; 3] {
        let (mut low, mut high) = ([u8::MAX; 3], [0; 3]);
        for &entry in &self.order[self.boxes[at].begin..self.boxes[at].end] {
            for (i, &byte) in self.entries[entry as usize].colour.iter().enumerate() {
                (low[i], high[i]) = (byte.min(low[i]), byte.max(high[i]));
            }
        }
        std::array::from_fn(|i| u32::from(high[i].saturating_sub(low[i])))
    }

    /// Cuts a box across its longest side: from the largest value down to the one with which more than half of the pixels are
    /// on that side; where nothing would be left, without the smallest value.
    fn cut(&mut self, at: usize) -> [usize; 2] {
        let Box { begin, end, pixels, .. } = self.boxes[at];
        let sides = self.sides(at);
        let weighted: [u32; 3] = std::array::from_fn(|i| sides[i] * WEIGHTS[i]);
        // The first of the longest.
        let axis = (1..3).fold(0, |best, i| if weighted[i] > weighted[best] { i } else { best });
        let mut counts = [0_u32; 256];
        for &entry in &self.order[begin..end] {
            let entry = &self.entries[entry as usize];
            counts[usize::from(entry.colour[axis])] += entry.count;
        }
        let lowest = counts.iter().position(|&count| count > 0).unwrap_or(0);
        let mut left = 0;
        let mut from = 255;
        loop {
            left += counts[from];
            if u64::from(left) * 2 > u64::from(pixels) || from == lowest {
                break;
            }
            from -= 1;
        }
        if from == lowest {
            left -= counts[lowest];
            from += 1;
        }
        self.aside.clear();
        let mut middle = begin;
        for i in begin..end {
            let entry = self.order[i];
            if usize::from(self.entries[entry as usize].colour[axis]) >= from {
                self.order[middle] = entry;
                middle += 1;
            } else {
                self.aside.push(entry);
            }
        }
        self.order[middle..end].copy_from_slice(&self.aside);
        let halves = [self.boxes.len(), self.boxes.len() + 1];
        self.boxes.push(Box { begin, end: middle, pixels: left, halves: None });
        self.boxes.push(Box { begin: middle, end, pixels: pixels - left, halves: None });
        self.boxes[at].halves = Some(halves);
        halves
    }

    /// The mean of the pixels of a box, a half rounded up.
    fn mean(&self, at: usize) -> [u8; 3] {
        let (mut sums, mut count) = ([0_u64; 3], 0_u64);
        for &entry in &self.order[self.boxes[at].begin..self.boxes[at].end] {
            let entry = &self.entries[entry as usize];
            sums.iter_mut().zip(entry.sums).for_each(|(sum, more)| *sum += more);
            count += u64::from(entry.count);
        }
        sums.map(|sum| (0.5 + sum as f64 / count as f64) as u8)
    }

    // A heap with the box of most pixels on top. Which of several equal ones comes first is part of what Pillow does, and the
    // heap of the standard library does not say.

    fn add(&mut self, at: usize) {
        let pixels = |at: usize| self.boxes[at].pixels;
        self.heap.push(at);
        let mut k = self.heap.len();
        while k > 1 && pixels(at) > pixels(self.heap[k / 2 - 1]) {
            self.heap[k - 1] = self.heap[k / 2 - 1];
            k /= 2;
        }
        self.heap[k - 1] = at;
    }

    fn remove(&mut self) -> Option<usize> {
        let pixels = |at: usize| self.boxes[at].pixels;
        let last = self.heap.pop()?;
        let Some(&top) = self.heap.first() else { return Some(last) };
        let mut k = 1;
        while k * 2 <= self.heap.len() {
            let mut below = k * 2;
            if below < self.heap.len() && pixels(self.heap[below - 1]) < pixels(self.heap[below]) {
                below += 1;
            }
            if pixels(last) > pixels(self.heap[below - 1]) {
                break;
            }
            self.heap[k - 1] = self.heap[below - 1];
            k = below;
        }
        self.heap[k - 1] = last;
        Some(top)
    }
}
