//! The few facts of VP8 (RFC 6386, section 9.1) that must be known before a decoder sees the bytes.

use super::h264::Scan;
use crate::frame::Size;

/// Reads the header of a frame.
pub(super) fn scan(frame: &[u8]) -> Scan {
    // The lowest bit of the frame tag is 0 for a key frame, which goes on with a start code and its size.
    match frame {
        [tag, _, _, 0x9D, 0x01, 0x2A, w0, w1, h0, h1, ..] if tag & 1 == 0 => {
            let side = |low: u8, high: u8| u32::from(u16::from_le_bytes([low, high]) & 0x3FFF);
            let size = Size::new(side(*w0, *w1), side(*h0, *h1));
            Scan { key: true, size: Some(size).filter(|size| size.width > 0 && size.height > 0), slice: true }
        }
        [tag, ..] => Scan { key: false, size: None, slice: tag & 1 == 1 },
        [] => Scan::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_frames_tell_their_size() {
        // 640×480, with a scale in the two highest bits.
        let key = [0x10, 0x02, 0x00, 0x9D, 0x01, 0x2A, 0x80, 0x42, 0xE0, 0x01, 7];
        assert_eq!(scan(&key), Scan { key: true, size: Some(Size::new(640, 480)), slice: true });
        let empty = [0x10, 0x02, 0x00, 0x9D, 0x01, 0x2A, 0x00, 0x40, 0xE0, 0x01];
        assert_eq!(scan(&empty).size, None);
        assert_eq!(scan(&[0x11, 0, 0]), Scan { key: false, size: None, slice: true });
        assert!(!scan(&key[..9]).key && !scan(&[]).key);
    }
}
