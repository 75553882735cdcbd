//! The few facts of H.264 (ITU-T H.264) that must be known before a decoder sees the bytes.

use crate::frame::Size;

/// What stands before and at the first slice of an access unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// Decoding can begin here: an IDR picture, or one with a recovery point.
    pub key: bool,
    /// Size of the pictures by the sequence parameter set in the unit, if it has one.
    pub size: Option<Size>,
    /// Whether the unit has a slice at all.
    pub slice: bool,
}

/// Reads up to the first slice.
pub(super) fn scan(unit: &[u8]) -> Scan {
    let mut scan = Scan::default();
    for nal in Nals(unit) {
        match nal.first().map_or(0, |b| b & 0x1F) {
            5 => return Scan { key: true, slice: true, ..scan },
            1 | 2 => return Scan { slice: true, ..scan },
            6 => scan.key |= has_recovery_point(nal),
            7 => scan.size = sps_size(nal).or(scan.size),
            _ => {}
        }
    }
    scan
}

/// The sequence and picture parameter sets in front of the first slice, with start codes, as other containers want them.
pub(super) fn parameter_sets(unit: &[u8]) -> Vec<u8> {
    let mut sets = Vec::new();
    for nal in Nals(unit) {
        match nal.first().map_or(0, |b| b & 0x1F) {
            7 | 8 => {
                sets.extend_from_slice(&[0, 0, 0, 1]);
                sets.extend_from_slice(nal);
            }
            1..=5 => break,
            _ => {}
        }
    }
    sets
}

/// The NAL units of a byte stream (annex B), without start codes and trailing zeros.
struct Nals<'a>(&'a [u8]);

impl<'a> Iterator for Nals<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let start = start_code(self.0)? + 3;
        let rest = &self.0[start..];
        let end = start_code(rest).unwrap_or(rest.len());
        self.0 = &rest[end..];
        let nal = &rest[..end];
        let kept = nal.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
        Some(&nal[..kept])
    }
}

fn start_code(bytes: &[u8]) -> Option<usize> {
    bytes.windows(3).position(|w| w == [0, 0, 1])
}

fn has_recovery_point(sei: &[u8]) -> bool {
    let mut rest = &sei[1..];
    loop {
        let (mut kind, mut size) = (0usize, 0usize);
        for field in [&mut kind, &mut size] {
            loop {
                let Some((&byte, after)) = rest.split_first() else { return false };
                rest = after;
                *field += usize::from(byte);
                if byte != 0xFF {
                    break;
                }
            }
        }
        if kind == 6 {
            return true;
        }
        match rest.get(size..) {
            Some(after) if after.len() > 1 => rest = after,
            _ => return false,
        }
    }
}

/// Bits of a NAL unit without its emulation prevention bytes.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    byte: u32,
    left: u32,
    zeros: u32,
}

impl<'a> Bits<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, byte: 0, left: 0, zeros: 0 }
    }

    fn bit(&mut self) -> Option<u32> {
        if self.left == 0 {
            let mut byte = *self.bytes.get(self.at)?;
            self.at += 1;
            if self.zeros >= 2 && byte == 3 {
                self.zeros = 0;
                byte = *self.bytes.get(self.at)?;
                self.at += 1;
            }
            self.zeros = if byte == 0 { self.zeros + 1 } else { 0 };
            (self.byte, self.left) = (u32::from(byte), 8);
        }
        self.left -= 1;
        Some(self.byte >> self.left & 1)
    }

    fn bits(&mut self, count: u32) -> Option<u32> {
        (0..count).try_fold(0, |value, _| Some(value << 1 | self.bit()?))
    }

    /// Exponential Golomb code, unsigned.
    fn ue(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while self.bit()? == 0 {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        Some((1 << zeros) - 1 + self.bits(zeros)?)
    }

    /// Signed, for its length alone or its value.
    fn se(&mut self) -> Option<i32> {
        let code = self.ue()?;
        let half = (code.div_ceil(2)) as i32;
        Some(if code & 1 == 1 { half } else { -half })
    }
}

/// Size of the pictures that a sequence parameter set describes, cropping applied.
fn sps_size(nal: &[u8]) -> Option<Size> {
    let mut b = Bits::new(nal.get(1..)?);
    let profile = b.bits(8)?;
    b.bits(16)?;
    b.ue()?;
    let mut chroma = 1;
    if [100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135].contains(&profile) {
        chroma = b.ue()?;
        if chroma == 3 {
            b.bit()?;
        }
        b.ue()?;
        b.ue()?;
        b.bit()?;
        if b.bit()? == 1 {
            for list in 0..if chroma == 3 { 12 } else { 8 } {
                if b.bit()? == 1 {
                    skip_scaling_list(&mut b, if list < 6 { 16 } else { 64 })?;
                }
            }
        }
    }
    b.ue()?;
    match b.ue()? {
        0 => {
            b.ue()?;
        }
        1 => {
            b.bit()?;
            b.se()?;
            b.se()?;
            let cycle = b.ue()?;
            if cycle > 255 {
                return None;
            }
            for _ in 0..cycle {
                b.se()?;
            }
        }
        _ => {}
    }
    b.ue()?;
    b.bit()?;
    let width = b.ue()?.checked_add(1)?.checked_mul(16)?;
    let map_units = b.ue()?.checked_add(1)?;
    let frames_only = b.bit()?;
    let height = map_units.checked_mul(16)?.checked_mul(2 - frames_only)?;
    if frames_only == 0 {
        b.bit()?;
    }
    b.bit()?;
    let (mut cut_x, mut cut_y) = (0u32, 0u32);
    if b.bit()? == 1 {
        let unit_x = if chroma == 1 || chroma == 2 { 2 } else { 1 };
        let unit_y = if chroma == 1 { 2 } else { 1 } * (2 - frames_only);
        cut_x = b.ue()?.checked_add(b.ue()?)?.checked_mul(unit_x)?;
        cut_y = b.ue()?.checked_add(b.ue()?)?.checked_mul(unit_y)?;
    }
    let (width, height) = (width.checked_sub(cut_x)?, height.checked_sub(cut_y)?);
    (width > 0 && height > 0).then_some(Size::new(width, height))
}

/// Passes over `scaling_list()` (H.264 §7.3.2.1.1.1); none where a `delta_scale` is outside −128…127.
fn skip_scaling_list(b: &mut Bits<'_>, size: u32) -> Option<()> {
    let (mut last, mut next) = (8i32, 8i32);
    for _ in 0..size {
        if next != 0 {
            let delta = b.se().filter(|delta| (-128..=127).contains(delta))?;
            next = (last + delta).rem_euclid(256);
        }
        if next != 0 {
            last = next;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sequence parameter set of `ffmpeg -f lavfi -i testsrc=s=1920x1080 -c:v libx264`: High, level 4.0.
    const SPS_1080: [u8; 21] = [
        0x67, 0x64, 0x00, 0x28, 0xAC, 0xD9, 0x40, 0x78, 0x02, 0x27, 0xE5, 0xC0, 0x44, 0x00, 0x00, 0x03, 0x00, 0x04,
        0x00, 0x00, 0x03,
    ];

    #[test]
    fn cropping_gives_1080_rows() {
        assert_eq!(sps_size(&SPS_1080), Some(Size::new(1920, 1080)));
    }

    /// The bits of an exponential Golomb code.
    fn ue(value: u32) -> String {
        let code = format!("{:b}", u64::from(value) + 1);
        "0".repeat(code.len() - 1) + &code
    }

    #[test]
    fn scaling_lists_are_passed_over_and_wild_ones_refused() {
        let set = |deltas: &[u32]| {
            // High profile, level 4.0, 4:2:0 in 8 bits, then eight lists of which the first is there.
            let mut bits = format!("{:08b}{:016b}", 100, 0x28) + &ue(0) + &ue(1) + &ue(0) + &ue(0) + "0" + "11";
            bits.extend(deltas.iter().map(|delta| ue(*delta)));
            bits += "0000000";
            // Frame number, order 0, one reference, 4 × 3 macroblocks, frames only, no cropping.
            bits +=
                &[ue(0), ue(0), ue(0), ue(1), "0".into(), ue(3), ue(2), "1".into(), "1".into(), "0".into()].concat();
            let mut nal = vec![0x67];
            nal.extend(bits.as_bytes().chunks(8).map(|byte| {
                byte.iter().enumerate().fold(0, |value, (at, bit)| value | u8::from(*bit == b'1') << (7 - at))
            }));
            nal
        };
        // Sixteen deltas of one (code 1), or a first one of −8 (code 16): from there on the default list.
        assert_eq!(sps_size(&set(&[1; 16])), Some(Size::new(64, 48)));
        assert_eq!(sps_size(&set(&[16])), Some(Size::new(64, 48)));
        let mut wild = [1; 16];
        (wild[0], wild[1]) = (253, u32::MAX - 2);
        assert_eq!(sps_size(&set(&wild)), None);
    }

    #[test]
    fn key_pictures_are_told_from_others() {
        let unit = |types: &[u8]| types.iter().flat_map(|t| [0, 0, 0, 1, *t, 0x80]).collect::<Vec<u8>>();
        assert!(scan(&unit(&[9, 0x65])).key);
        assert!(!scan(&unit(&[9, 0x41])).key);
        let recovery = [0, 0, 1, 6, 6, 1, 0xC4, 0x80, 0, 0, 1, 0x41, 0x9A];
        assert!(scan(&recovery).key);
        assert!(!scan(&unit(&[9])).slice);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(prop_oneof![3 => Just(0u8), 1 => Just(1), 3 => any::<u8>()], 0..300)) {
            scan(&bytes);
            parameter_sets(&bytes);
        }
    }
}
