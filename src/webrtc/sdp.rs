//! What an offer must have for what the peer wants.

use str0m::Rtc;
use str0m::format::Codec;
use str0m::media::{Direction, MediaKind, Mid};

/// Longest offer in bytes.
pub const MAX_SDP: usize = 64 * 1024;

/// What a peer is here for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It sends (WHIP).
    Publish,
    /// It receives (WHEP).
    Play,
    /// It sends and receives what became of it.
    Both,
    /// It receives what it sends, untouched.
    Echo,
}

/// Why an offer is not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It cannot be read.
    #[error("the offer cannot be read: {0}")]
    Unreadable(String),
    /// It can be read and is of no use.
    #[error("{0}")]
    Useless(&'static str),
}

/// The media of an offer: kind and name, in order.
fn lines(offer: &str) -> Vec<(MediaKind, Mid)> {
    let mut found = Vec::new();
    let mut kind = None;
    for line in offer.lines() {
        if let Some(media) = line.strip_prefix("m=") {
            kind = match media.split(' ').next() {
                Some("video") => Some(MediaKind::Video),
                Some("audio") => Some(MediaKind::Audio),
                _ => None,
            };
        } else if let (Some(mid), Some(known)) = (line.strip_prefix("a=mid:"), kind) {
            found.push((known, mid.trim().into()));
        }
    }
    found
}

/// Whether an offer that `rtc` has accepted fits `role`.
///
/// # Errors
/// What is missing, in words for the peer's owner.
pub(super) fn check(offer: &str, rtc: &Rtc, role: Role) -> Result<(), Refused> {
    let lines = lines(offer);
    let count = |kind| lines.iter().filter(|(known, _)| *known == kind).count();
    if count(MediaKind::Video) > 1 || count(MediaKind::Audio) > 1 {
        return Err(Refused::Useless(
            "the offer has more than one track of a kind; one video and one audio are served",
        ));
    }
    let (mut comes, mut goes) = (false, false);
    for (kind, mid) in lines {
        let Some(media) = rtc.media(mid) else { continue };
        let codecs = || {
            let known = rtc.codec_config().params().iter();
            known.filter(|params| media.remote_pts().contains(&params.pt())).map(|params| params.spec().codec)
        };
        let fits = |wanted: &[Codec]| codecs().any(|codec| wanted.contains(&codec));
        let (receives, sends) = match media.direction() {
            Direction::SendRecv => (true, true),
            Direction::SendOnly => (false, true),
            Direction::RecvOnly => (true, false),
            Direction::Inactive => (false, false),
        };
        match kind {
            MediaKind::Video => {
                let in_fits = fits(&[Codec::H264, Codec::Vp8]);
                if receives && role != Role::Play && !in_fits {
                    return Err(Refused::Useless("the offered video is neither H.264 nor VP8"));
                }
                if sends && matches!(role, Role::Play | Role::Both) && !fits(&[Codec::H264]) {
                    return Err(Refused::Useless("pictures are sent as H.264, which the offer does not have"));
                }
            }
            MediaKind::Audio => {
                if !fits(&[Codec::Opus]) {
                    return Err(Refused::Useless("sound is Opus, which the offer does not have"));
                }
            }
        }
        comes |= receives;
        goes |= sends;
    }
    let (needs_in, needs_out) = match role {
        Role::Publish | Role::Both => (true, false),
        Role::Echo => (true, false),
        Role::Play => (false, true),
    };
    if needs_in && !comes {
        return Err(Refused::Useless("the offer sends neither video nor audio"));
    }
    if needs_out && !goes {
        return Err(Refused::Useless("the offer asks for neither video nor audio"));
    }
    Ok(())
}

/// The candidates of a fragment of SDP as it comes in a PATCH (RFC 8840), without `a=`. At most 64.
pub fn candidates(fragment: &str) -> Vec<String> {
    let lines = fragment.lines().filter_map(|line| line.trim_end().strip_prefix("a="));
    lines.filter(|line| line.starts_with("candidate:")).take(64).map(str::to_owned).collect()
}

/// Whether a fragment begins a new ICE session: it names another user than `offer` did.
pub fn restarts(fragment: &str, offer: &str) -> bool {
    let user =
        |text: &str| text.lines().find_map(|line| line.trim_end().strip_prefix("a=ice-ufrag:").map(str::to_owned));
    user(fragment).is_some_and(|theirs| user(offer).is_some_and(|ours| ours != theirs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_give_their_candidates() {
        let fragment = "a=ice-ufrag:abc\r\na=ice-pwd:x\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n\
                        a=candidate:1 1 UDP 2130706431 192.0.2.1 54400 typ host\r\na=end-of-candidates\r\n";
        assert_eq!(candidates(fragment), ["candidate:1 1 UDP 2130706431 192.0.2.1 54400 typ host"]);
        assert!(restarts(fragment, "a=ice-ufrag:other\r\n"));
        assert!(!restarts(fragment, "v=0\r\na=ice-ufrag:abc\r\n"));
        assert!(!restarts("a=candidate:1", "a=ice-ufrag:abc"));
    }

    #[test]
    fn media_are_read_with_their_names() {
        let offer = "m=audio 9 x\r\na=mid:a0\r\nm=application 9 y\r\na=mid:d\r\nm=video 9 z\r\na=mid:v0\r\n";
        assert_eq!(lines(offer), [(MediaKind::Audio, "a0".into()), (MediaKind::Video, "v0".into())]);
    }
}
