//! Lines and filled shapes, pixel for pixel as OpenCV draws them without antialiasing (`line`, `polylines`, `fillPoly`,
//! `fillConvexPoly`, the inner works of which its `imgproc/drawing` has): the pictures that ControlNets were trained on are drawn
//! so.

/// A place in pixels, x and y; in units of 2⁻¹⁶ pixels where it is said so.
pub type Place = [i64; 2];

/// Bits behind the point of a place in parts of pixels.
const BITS: u32 = 16;
const ONE: i64 = 1 << BITS;
const HALF: i64 = ONE / 2;

/// Places on a canvas are at most so far from its corner, in pixels, that no product of two overflows.
pub const FAR: i64 = 1 << 14;

/// A picture that is drawn on, row by row.
pub struct Canvas<'a, T> {
    pixels: &'a mut [T],
    size: [i64; 2],
}

impl<'a, T: Copy> Canvas<'a, T> {
    /// `pixels` of `size` (width, height); rows that are not there are not drawn.
    pub fn new(pixels: &'a mut [T], size: [usize; 2]) -> Self {
        Self { pixels, size: size.map(|n| n as i64) }
    }

    fn put(&mut self, [x, y]: Place, colour: T) {
        let [width, height] = self.size;
        if (0..width).contains(&x)
            && (0..height).contains(&y)
            && let Some(pixel) = self.pixels.get_mut((y * width + x) as usize)
        {
            *pixel = colour;
        }
    }

    /// The pixels from `left` to `right`, both included, of row `y`.
    pub fn span(&mut self, y: i64, left: i64, right: i64, colour: T) {
        let [width, height] = self.size;
        let (left, right) = (left.max(0), right.min(width - 1));
        if (0..height).contains(&y)
            && left <= right
            && let Some(row) = self.pixels.get_mut((y * width + left) as usize..=(y * width + right) as usize)
        {
            row.fill(colour);
        }
    }

    /// A line one pixel wide, after Bresenham, always from left to right.
    pub fn thin(&mut self, from: Place, to: Place, colour: T) {
        let ([mut from, mut to], true) = clip(self.size, [from, to]) else { return };
        if to[0] < from[0] {
            std::mem::swap(&mut from, &mut to);
        }
        let (across, down) = (to[0] - from[0], (to[1] - from[1]).abs());
        let step = if to[1] < from[1] { -1 } else { 1 };
        let steep = down > across;
        let (long, short) = if steep { (down, across) } else { (across, down) };
        let [mut x, mut y] = from;
        let mut error = long - 2 * short;
        for _ in 0..=long {
            self.put([x, y], colour);
            let aside = error < 0;
            error += if aside { 2 * (long - short) } else { -2 * short };
            if steep || aside {
                y += step;
            }
            if !steep || aside {
                x += 1;
            }
        }
    }

    /// A line one pixel wide between places in parts of pixels.
    fn fine(&mut self, from: Place, to: Place, colour: T) {
        let ([mut from, mut to], true) = clip(self.size.map(|n| n << BITS), [from, to]) else { return };
        // The axis along which the line moves a pixel at a time.
        let along = usize::from((to[0] - from[0]).abs() <= (to[1] - from[1]).abs());
        let aside = 1 - along;
        if to[along] < from[along] {
            std::mem::swap(&mut from, &mut to);
        }
        let length = to[along] - from[along];
        let step = ((to[aside] - from[aside]) << BITS) / (length | 1);
        self.put(to.map(|n| (n + HALF) >> BITS), colour);
        let mut at = from.map(|n| n + HALF);
        at[along] >>= BITS;
        for _ in 0..=length >> BITS {
            let mut pixel = at;
            pixel[aside] >>= BITS;
            self.put(pixel, colour);
            at[along] += 1;
            at[aside] += step;
        }
    }

    /// A filled disc.
    fn disc(&mut self, [x, y]: Place, radius: i64, colour: T) {
        let (mut error, mut wide, mut high) = (0, radius, 0);
        let (mut plus, mut minus) = (1, 2 * radius - 1);
        while wide >= high {
            for (rows, reach) in [(high, wide), (wide, high)] {
                self.span(y - rows, x - reach, x + reach, colour);
                self.span(y + rows, x - reach, x + reach, colour);
            }
            high += 1;
            error += plus;
            plus += 2;
            if error > 0 {
                error -= minus;
                wide -= 1;
                minus -= 2;
            }
        }
    }

    /// A line `thickness` pixels wide, with a round end where `ends` says so.
    pub fn line(&mut self, from: Place, to: Place, thickness: i64, ends: [bool; 2], colour: T) {
        if thickness <= 1 {
            return self.thin(from, to, colour);
        }
        let odd = (thickness & 1) as f64;
        let half = thickness << (BITS - 1);
        let [p, q] = [from, to].map(|place| place.map(|n| n << BITS));
        let (dx, dy) = ((from[0] - to[0]) as f64, (to[1] - from[1]) as f64);
        let square = dx * dx + dy * dy;
        if square > f64::EPSILON {
            let ratio = (half as f64 + odd * ONE as f64 * 0.5) / square.sqrt();
            let aside = [dy * ratio, dx * ratio].map(|n| n.round_ties_even() as i64);
            let [x, y] = aside;
            let corners = [[p[0] + x, p[1] + y], [p[0] - x, p[1] - y], [q[0] - x, q[1] - y], [q[0] + x, q[1] + y]];
            self.convex(&corners, true, colour);
        }
        for (end, place) in ends.into_iter().zip([from, to]) {
            if end {
                self.disc(place, (half + HALF) >> BITS, colour);
            }
        }
    }

    /// A closed line through `corners`, `thickness` pixels wide.
    pub fn outline(&mut self, corners: &[Place], thickness: i64, colour: T) {
        let Some(mut from) = corners.last().copied() else { return };
        for &to in corners {
            self.line(from, to, thickness, [false, true], colour);
            from = to;
        }
    }

    /// A filled convex shape, its edge included. `parts`: the places are in parts of pixels.
    pub fn convex(&mut self, corners: &[Place], parts: bool, colour: T) {
        let count = corners.len();
        let Some(mut before) = corners.last().copied() else { return };
        for &corner in corners {
            if parts {
                self.fine(before, corner, colour)
            } else {
                self.thin(before, corner, colour)
            };
            before = corner;
        }
        let row = |place: Place| if parts { (place[1] + HALF) >> BITS } else { place[1] };
        let fine = |n: i64| if parts { n } else { n << BITS };
        let (top, first) = corners.iter().enumerate().map(|(i, c)| (c[1], i)).min().unwrap_or_default();
        let bottom = corners.iter().map(|c| row(*c)).max().unwrap_or_default().min(self.size[1] - 1);
        if count < 3 {
            return;
        }
        let mut y = row([0, top]);
        // Both ways round from the highest corner: where the side is, how it moves a row, where it ends, its last corner.
        struct Side {
            x: i64,
            step: i64,
            end: i64,
            corner: usize,
            by: usize,
        }
        let mut sides = [1, count - 1].map(|by| Side { x: -ONE, step: 0, end: y, corner: first, by });
        let mut left = count;
        while y <= bottom {
            for side in &mut sides {
                while y >= side.end {
                    if left == 0 {
                        return;
                    }
                    left -= 1;
                    let next = (side.corner + side.by) % count;
                    let end = row(corners[next]);
                    if end > y {
                        let (from, to) = (fine(corners[side.corner][0]), fine(corners[next][0]));
                        side.step = ((to - from) * 2 + (end - y)) / (2 * (end - y));
                        side.x = from;
                        side.end = end;
                    }
                    side.corner = next;
                }
            }
            let [a, b] = &mut sides;
            let (from, to) = (a.x.min(b.x), a.x.max(b.x));
            self.span(y, (from + HALF) >> BITS, (to + HALF) >> BITS, colour);
            a.x += a.step;
            b.x += b.step;
            y += 1;
        }
    }

    /// A filled shape, its edge included; what is inside an even number of times is left out. `room` is used for the work.
    pub fn polygon(&mut self, corners: &[Place], room: &mut Room, colour: T) {
        let Room { edges, crossings } = room;
        edges.clear();
        let Some(mut from) = corners.last().copied() else { return };
        for &to in corners {
            self.thin(from, to, colour);
            if from[1] != to[1] {
                edges.push(self.edge(from, to));
            }
            from = to;
        }
        let top = corners.iter().map(|c| c[1]).min().unwrap_or_default().max(0);
        let bottom = corners.iter().map(|c| c[1]).max().unwrap_or_default().min(self.size[1]);
        for y in top..bottom {
            crossings.clear();
            let active = edges.iter().filter(|edge| (edge.top..edge.bottom).contains(&y));
            crossings.extend(active.map(|edge| edge.x + edge.step * (y - edge.top)));
            crossings.sort_unstable();
            for pair in crossings.as_chunks::<2>().0 {
                self.span(y, (pair[0] + ONE - 1) >> BITS, pair[1] >> BITS, colour);
            }
        }
    }

    /// A side of a polygon. One that leaves the picture has the slope of the part inside.
    fn edge(&self, from: Place, to: Place) -> Edge {
        let [mut p, mut q] = clip(self.size, [from, to]).0;
        if p[1] == q[1] {
            (p[1], q[1]) = (from[1], to[1]);
        }
        let step = ((q[0] - p[0]) << BITS) / (q[1] - p[1]);
        let (start, seen) = if from[1] < to[1] { (from, p) } else { (to, q) };
        let x = (seen[0] << BITS) + (start[1] - seen[1]) * step;
        Edge { top: start[1], bottom: from[1].max(to[1]), x, step }
    }
}

/// Room for the work of [`Canvas::polygon`].
pub struct Room {
    edges: Vec<Edge>,
    crossings: Vec<i64>,
}

impl Room {
    /// For shapes of up to `corners`.
    pub fn new(corners: usize) -> Self {
        Self { edges: Vec::with_capacity(corners), crossings: Vec::with_capacity(corners) }
    }
}

/// A side of a polygon: its rows, the last not included, where it begins and how it moves from row to row, in parts of pixels.
struct Edge {
    top: i64,
    bottom: i64,
    x: i64,
    step: i64,
}

/// The part of a line that lies in a picture of `size`, as OpenCV's `clipLine` cuts it, and whether there is one; else it is cut at
/// some of the sides.
fn clip(size: [i64; 2], line: [Place; 2]) -> ([Place; 2], bool) {
    let [right, bottom] = size.map(|n| n - 1);
    if right < 0 || bottom < 0 {
        return (line, false);
    }
    let beside = |x: i64| u8::from(x < 0) + 2 * u8::from(x > right);
    let code = |[x, y]: Place| beside(x) + 4 * u8::from(y < 0) + 8 * u8::from(y > bottom);
    let [mut p, mut q] = line;
    let (mut a, mut b) = (code(p), code(q));
    if a & b == 0 && a | b != 0 {
        if a & 12 != 0 {
            let y = if a < 8 { 0 } else { bottom };
            p[0] += (y - p[1]) * (q[0] - p[0]) / (q[1] - p[1]);
            p[1] = y;
            a = beside(p[0]);
        }
        if b & 12 != 0 {
            let y = if b < 8 { 0 } else { bottom };
            q[0] += (y - q[1]) * (q[0] - p[0]) / (q[1] - p[1]);
            q[1] = y;
            b = beside(q[0]);
        }
        if a & b == 0 && a | b != 0 {
            if a != 0 {
                let x = if a == 1 { 0 } else { right };
                p[1] += (x - p[0]) * (q[1] - p[1]) / (q[0] - p[0]);
                p[0] = x;
                a = 0;
            }
            if b != 0 {
                let x = if b == 1 { 0 } else { right };
                q[1] += (x - q[0]) * (q[1] - p[1]) / (q[0] - p[0]);
                q[0] = x;
                b = 0;
            }
        }
    }
    ([p, q], a | b == 0)
}

/// The corners of the smallest convex shape around `places`, which are put in order; as many as the result counts.
pub fn hull(places: &mut [Place], out: &mut Vec<Place>) {
    places.sort_unstable();
    out.clear();
    let turn = |a: Place, b: Place, c: Place| (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
    // The lower side from left to right, then the upper one back.
    for back in [false, true] {
        let begin = out.len();
        for i in 0..places.len() {
            let place = places[if back { places.len() - 1 - i } else { i }];
            while let [.., a, b] = out[begin..]
                && turn(a, b, place) <= 0
            {
                out.pop();
            }
            out.push(place);
        }
        // The last one begins the other side.
        out.pop();
    }
}
