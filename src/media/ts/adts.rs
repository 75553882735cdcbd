//! AAC frames behind ADTS headers (ISO/IEC 14496-3, 1.A.2.2).

use crate::frame::Timestamp;

/// Samples of a frame.
pub(crate) const FRAME: i64 = 1024;
/// Samples a second by `sampling_frequency_index`.
const RATES: [u32; 13] =
    [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];

/// What the header of a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Adts {
    /// Samples a second.
    pub rate: u32,
    /// 1–8.
    pub channels: u8,
    /// AudioSpecificConfig.
    pub config: [u8; 2],
    header: usize,
    length: usize,
}

impl Adts {
    fn parse(b: &[u8]) -> Option<Self> {
        if b.len() < 7 || b[0] != 0xFF || b[1] & 0xF6 != 0xF0 {
            return None;
        }
        let header = if b[1] & 1 == 0 { 9 } else { 7 };
        let index = b[2] >> 2 & 0x0F;
        let rate = *RATES.get(usize::from(index))?;
        let code = (b[2] & 1) << 2 | b[3] >> 6;
        // 0 means that the frame itself says; 7 stands for eight.
        let channels = [2, 1, 2, 3, 4, 5, 6, 8][usize::from(code)];
        let length = usize::from(b[3] & 3) << 11 | usize::from(b[4]) << 3 | usize::from(b[5] >> 5);
        let object = (b[2] >> 6) + 1;
        let config = [object << 3 | index >> 1, (index & 1) << 7 | code << 3];
        (length > header).then_some(Self { rate, channels, config, header, length })
    }
}

/// Puts frames together that may lie across PES packets.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    carry: Vec<u8>,
}

impl Frames {
    /// Forgets a frame that was begun.
    pub fn reset(&mut self) {
        self.carry.clear();
    }

    /// Takes the payload of a PES packet; calls `found` with each frame, without its header, and with the offset of its
    /// time from that of the PES packet in ticks of 90 kHz. A frame that began in the packet before has a negative offset.
    /// False when something could not be read.
    pub fn push(&mut self, payload: &[u8], found: &mut dyn FnMut(Adts, &[u8], i64)) -> bool {
        let begun = self.carry.len();
        self.carry.extend_from_slice(payload);
        let bytes = std::mem::take(&mut self.carry);
        let (mut at, mut good) = (0, true);
        // Samples since the first frame that begins in this payload.
        let mut samples = 0;
        loop {
            let Some(step) = bytes[at..].windows(2).position(|w| w[0] == 0xFF && w[1] & 0xF6 == 0xF0) else {
                // A last 0xFF may begin the next header.
                let keep = usize::from(bytes.last() == Some(&0xFF) && at < bytes.len());
                good &= bytes.len() - at <= keep;
                at = bytes.len() - keep;
                break;
            };
            good &= step == 0;
            at += step;
            if bytes.len() - at < 7 {
                break;
            }
            let Some(adts) = Adts::parse(&bytes[at..]) else {
                good = false;
                at += 1;
                continue;
            };
            let Some(frame) = bytes.get(at..at + adts.length) else { break };
            let rate = i64::from(adts.rate);
            if at < begun {
                found(adts, &frame[adts.header..], -(FRAME * Timestamp::HZ / rate));
            } else {
                found(adts, &frame[adts.header..], samples * Timestamp::HZ / rate);
                samples += FRAME;
            }
            at += adts.length;
        }
        // A frame is at most 8191 bytes long, so what stays is bounded.
        self.carry = bytes;
        self.carry.drain(..at);
        if self.carry.len() > 8191 {
            self.carry.clear();
            good = false;
        }
        good
    }
}

/// The header for a frame of `size` bytes of the stream that `config`, its AudioSpecificConfig, describes. `None` when the
/// stream cannot be carried behind such headers.
pub(crate) fn header(config: &[u8], size: usize) -> Option<[u8; 7]> {
    let (&a, &b) = (config.first()?, config.get(1)?);
    let object = a >> 3;
    let index = (a & 7) << 1 | b >> 7;
    let channels = b >> 3 & 0x0F;
    let length = size + 7;
    if !(1..=4).contains(&object) || usize::from(index) >= RATES.len() || channels > 7 || length > 8191 {
        return None;
    }
    Some([
        0xFF,
        0xF1,
        (object - 1) << 6 | index << 2 | channels >> 2,
        (channels & 3) << 6 | (length >> 11) as u8,
        (length >> 3) as u8,
        ((length & 7) as u8) << 5 | 0x1F,
        0xFC,
    ])
}

/// The AudioSpecificConfig of AAC-LC; `None` for a rate that has no index.
pub(crate) fn config(rate: u32, channels: u8) -> Option<[u8; 2]> {
    let index = RATES.iter().position(|&r| r == rate)? as u8;
    Some([2 << 3 | index >> 1, (index & 1) << 7 | channels << 3])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// AAC-LC, 48 kHz, stereo.
    const CONFIG: [u8; 2] = [0x11, 0x90];

    #[test]
    fn headers_and_configs_agree() {
        let header = header(&CONFIG, 100).expect("header");
        let adts = Adts::parse(&header).expect("parse");
        assert_eq!((adts.rate, adts.channels, adts.config, adts.length), (48_000, 2, CONFIG, 107));
        assert_eq!(config(48_000, 2), Some(CONFIG));
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(sizes in prop::collection::vec(1usize..600, 1..8), cut in 1usize..300) {
            let mut bytes = Vec::new();
            for &size in &sizes {
                bytes.extend(header(&CONFIG, size).expect("header"));
                bytes.extend(std::iter::repeat_n(0x21, size));
            }
            let mut frames = Frames::default();
            let mut found = Vec::new();
            for piece in bytes.chunks(cut) {
                prop_assert!(frames.push(piece, &mut |_, data, _| found.push(data.len())));
            }
            prop_assert_eq!(found, sizes);
        }

        #[test]
        fn any_bytes_are_survived(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 0..20)) {
            let mut frames = Frames::default();
            for piece in pieces {
                frames.push(&piece, &mut |_, _, _| {});
                prop_assert!(frames.carry.len() <= 8191);
            }
        }
    }
}
