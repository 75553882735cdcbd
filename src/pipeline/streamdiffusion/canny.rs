//! Canny's edges as OpenCV finds them, on the host, because the last step follows edges as far as they go.

use crate::frame::Size;

/// tan 22.5° in units of 2⁻¹⁵.
const TANGENT: i32 = 13_573;

/// Buffers for pictures of one size.
pub(super) struct Canny {
    width: usize,
    height: usize,
    grey: Vec<u8>,
    /// Gradients right and down, ±1020 at most.
    across: Vec<i16>,
    down: Vec<i16>,
    /// |right| + |down|, one pixel larger on every side, where it is 0.
    magnitude: Vec<i16>,
    /// 0 for no edge, 1 for a weak one, 2 for a strong one.
    edge: Vec<u8>,
    walk: Vec<usize>,
}

impl Canny {
    pub fn new(size: Size) -> Self {
        let (width, height) = (size.width as usize, size.height as usize);
        let pixels = width * height;
        Self {
            width,
            height,
            grey: vec![0; pixels],
            across: vec![0; pixels],
            down: vec![0; pixels],
            magnitude: vec![0; (width + 2) * (height + 2)],
            edge: vec![0; pixels],
            walk: Vec::with_capacity(pixels),
        }
    }

    /// Writes the edges of `picture`, RGB, to `edges`: 255 in all three channels, or 0. A pixel is part of an edge when its
    /// gradient is above `low` and the largest across the edge, and a chain of such pixels leads to one above `high`.
    /// `cv2.Canny(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), low, high)`, number for number.
    pub fn run(&mut self, picture: &[u8], thresholds: [f32; 2], edges: &mut [u8]) {
        let [a, b] = thresholds.map(|t| t.floor() as i32);
        self.gradients(picture);
        self.thin(a.min(b), a.max(b));
        self.follow();
        for (pixel, edge) in edges.chunks_exact_mut(3).zip(&self.edge) {
            pixel.fill(if *edge == 2 { 255 } else { 0 });
        }
    }

    /// Grey by ITU-R BT.601 in 15 bits, and Sobel's kernels over it; beyond the edge the last pixel goes on.
    fn gradients(&mut self, picture: &[u8]) {
        let (w, h) = (self.width, self.height);
        for (grey, pixel) in self.grey.iter_mut().zip(picture.chunks_exact(3)) {
            let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
            *grey = ((r * 9798 + g * 19_235 + b * 3735 + (1 << 14)) >> 15) as u8;
        }
        for i in 0..h {
            let row = |i: usize| &self.grey[i * w..(i + 1) * w];
            let (above, here, below) = (row(i.saturating_sub(1)), row(i), row((i + 1).min(h - 1)));
            for j in 0..w {
                let (l, r) = (j.saturating_sub(1), (j + 1).min(w - 1));
                let at = |row: &[u8], j: usize| i16::from(row[j]);
                let x = at(above, r) - at(above, l) + 2 * (at(here, r) - at(here, l)) + at(below, r) - at(below, l);
                let y = at(below, l) - at(above, l) + 2 * (at(below, j) - at(above, j)) + at(below, r) - at(above, r);
                self.across[i * w + j] = x;
                self.down[i * w + j] = y;
                self.magnitude[(i + 1) * (w + 2) + j + 1] = x.abs() + y.abs();
            }
        }
    }

    /// Keeps pixels that are the largest along their gradient, which is taken as one of four directions. Of two equal ones
    /// side by side the left or upper one goes, on a diagonal both.
    fn thin(&mut self, low: i32, high: i32) {
        let wide = self.width + 2;
        self.walk.clear();
        for i in 0..self.height {
            for j in 0..self.width {
                let at = i * self.width + j;
                let centre = (i + 1) * wide + j + 1;
                let m = self.magnitude[centre];
                let size = i32::from(m);
                let mut edge = 0;
                if size > low {
                    let (x, y) = (i32::from(self.across[at]), i32::from(self.down[at]));
                    let flat = x.abs() * TANGENT;
                    let rise = y.abs() << 15;
                    let most = if rise < flat {
                        m > self.magnitude[centre - 1] && m >= self.magnitude[centre + 1]
                    } else if rise > flat + (x.abs() << 16) {
                        m > self.magnitude[centre - wide] && m >= self.magnitude[centre + wide]
                    } else if (x ^ y) < 0 {
                        m > self.magnitude[centre - wide + 1] && m > self.magnitude[centre + wide - 1]
                    } else {
                        m > self.magnitude[centre - wide - 1] && m > self.magnitude[centre + wide + 1]
                    };
                    if most {
                        edge = 1 + u8::from(size > high);
                    }
                }
                self.edge[at] = edge;
                if edge == 2 {
                    self.walk.push(at);
                }
            }
        }
    }

    /// Makes weak pixels strong that touch a strong one, also at a corner.
    fn follow(&mut self) {
        let (w, h) = (self.width, self.height);
        while let Some(at) = self.walk.pop() {
            let (i, j) = (at / w, at % w);
            for row in i.saturating_sub(1)..(i + 2).min(h) {
                for column in j.saturating_sub(1)..(j + 2).min(w) {
                    let next = row * w + column;
                    if self.edge[next] == 1 {
                        self.edge[next] = 2;
                        self.walk.push(next);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use safetensors::SafeTensors;

    use super::*;
    use crate::models::synthetic::uniform;

    const SIZE: usize = 64;

    /// The moving picture of the golden vectors.
    fn picture(index: usize) -> Vec<u8> {
        let (left, top) = ((index * 7) % (SIZE - 16), (index * 5) % (SIZE - 16));
        let pixel = |y: usize, x: usize, c: usize| {
            let wave = (x * 6 + y * 4 + c * 90 + index * 23) % 512;
            let inside = (left..left + 16).contains(&x) && (top..top + 16).contains(&y);
            (if inside { 230 - 60 * c } else { wave.min(511 - wave) }) as u8
        };
        (0..SIZE * SIZE * 3).map(|i| pixel(i / 3 / SIZE, i / 3 % SIZE, i % 3)).collect()
    }

    #[test]
    fn edges_are_those_of_opencv_in_every_pixel() {
        let path =
            concat!(env!("CARGO_MANIFEST_DIR"), "/integration-tests/golden/streamdiffusion/conditions.safetensors");
        let bytes = std::fs::read(path).unwrap();
        let golden = SafeTensors::deserialize(&bytes).unwrap();
        let mut canny = Canny::new(Size::new(SIZE as u32, SIZE as u32));
        let mut found = |picture: &[u8], thresholds: [f32; 2]| {
            let mut edges = vec![7; picture.len()];
            canny.run(picture, thresholds, &mut edges);
            assert!(edges.chunks_exact(3).all(|pixel| pixel[0] == pixel[1] && pixel[1] == pixel[2]));
            edges.into_iter().step_by(3).collect::<Vec<u8>>()
        };
        let mut kinds = std::collections::BTreeSet::new();
        for (low, high) in [(100, 200), (40, 90), (300, 120), (0, 0)] {
            for index in [0, 3, 5] {
                let want = golden.tensor(&format!("canny-{low}-{high}-{index}")).unwrap();
                let got = found(&picture(index), [low as f32, high as f32]);
                assert!(got == want.data(), "{low} {high} {index}");
                assert!(got.contains(&0) && (got.contains(&255) || index == 0), "{low} {high} {index}");
                kinds.insert(got);
            }
        }
        assert!(kinds.len() >= 9, "pictures and thresholds are told apart: {}", kinds.len());
        let noise: Vec<u8> = uniform("canny", (SIZE * SIZE * 3) as u64).map(|u| ((u + 1.0) * 127.99) as u8).collect();
        assert!(found(&noise, [300.0, 700.0]) == golden.tensor("canny-noise").unwrap().data());
    }
}
