//! What an offer must have for what the peer wants.

use str0m::Rtc;
use str0m::format::Codec;
use str0m::media::{Direction, MediaKind, Mid};

use crate::media::VideoCodec;

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

/// Whether an offer that `rtc` has accepted fits `role`. Gives the codecs in which the peer takes pictures, best first; none
/// where it takes no pictures.
///
/// # Errors
/// What is missing, in words for the peer's owner.
pub(super) fn check(offer: &str, rtc: &Rtc, role: Role) -> Result<Vec<VideoCodec>, Refused> {
    let lines = lines(offer);
    let count = |kind| lines.iter().filter(|(known, _)| *known == kind).count();
    if count(MediaKind::Video) > 1 || count(MediaKind::Audio) > 1 {
        return Err(Refused::Useless(
            "the offer has more than one track of a kind; one video and one audio are served",
        ));
    }
    let (mut comes, mut goes) = (false, false);
    let mut takes = Vec::new();
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
                if sends && matches!(role, Role::Play | Role::Both) {
                    let known = [(Codec::H264, VideoCodec::H264), (Codec::Vp8, VideoCodec::Vp8)];
                    takes.extend(known.into_iter().filter(|(codec, _)| fits(&[*codec])).map(|(_, codec)| codec));
                    if takes.is_empty() {
                        return Err(Refused::Useless(
                            "pictures are sent as H.264 or VP8, which the offer does not have",
                        ));
                    }
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
    Ok(takes)
}

/// The candidates of a fragment of SDP as it comes in a PATCH (RFC 8840), without `a=`. At most 64.
pub fn candidates(fragment: &str) -> Vec<String> {
    let lines = fragment.lines().filter_map(|line| line.trim_end().strip_prefix("a="));
    lines.filter(|line| line.starts_with("candidate:")).take(64).map(str::to_owned).collect()
}

/// A value of `name` in a text of SDP, the first one.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.trim_end().strip_prefix("a=")?.strip_prefix(name)?.strip_prefix(':'))
}

/// `offer` with the credentials of a fragment that begins a new ICE session, and with its candidates in place of the old.
///
/// # Errors
/// The fragment has no credentials, or such as no ICE has (RFC 8839, section 5.4).
pub fn restarted(offer: &str, fragment: &str) -> Result<String, Refused> {
    let fine = |text: &str| text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'+' || c == b'/');
    let (Some(user), Some(password)) = (value(fragment, "ice-ufrag"), value(fragment, "ice-pwd")) else {
        return Err(Refused::Unreadable("a new ICE session needs `ice-ufrag` and `ice-pwd`".into()));
    };
    if !((4..=256).contains(&user.len()) && (22..=256).contains(&password.len()) && fine(user) && fine(password)) {
        return Err(Refused::Unreadable("`ice-ufrag` or `ice-pwd` is malformed".into()));
    }
    let mut text = String::with_capacity(offer.len());
    for line in offer.lines().map(str::trim_end) {
        if line.starts_with("a=candidate:") || line == "a=end-of-candidates" {
            continue;
        }
        let line = match line.strip_prefix("a=").and_then(|line| line.split_once(':')) {
            Some(("ice-ufrag", _)) => format!("a=ice-ufrag:{user}"),
            Some(("ice-pwd", _)) => format!("a=ice-pwd:{password}"),
            _ => line.to_owned(),
        };
        text.push_str(&line);
        text.push_str("\r\n");
    }
    Ok(text)
}

/// What a peer has to know of an answer to its new ICE session, as a fragment (RFC 8840): the first of the bundled media
/// with credentials and candidates.
pub(super) fn fragment(answer: &str) -> String {
    let mut text = String::new();
    let (mut media, mut keep) = (0, true);
    for line in answer.lines().map(str::trim_end) {
        if line.starts_with("m=") {
            media += 1;
            keep = media == 1;
        }
        let part = ["a=group:", "a=ice-", "a=candidate:", "a=mid:", "a=end-of-candidates", "m="];
        if keep && part.iter().any(|part| line.starts_with(part)) {
            text.push_str(line);
            text.push_str("\r\n");
        }
    }
    text
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
    fn a_new_session_takes_the_place_of_the_old() {
        let offer = "v=0\r\na=group:BUNDLE 0\r\nm=video 9 x\r\na=mid:0\r\na=ice-ufrag:oldo\r\na=ice-pwd:p\r\n\
                     a=candidate:1 1 UDP 1 192.0.2.1 5 typ host\r\na=end-of-candidates\r\na=rtcp-mux\r\n";
        let password = "0123456789012345678901+/";
        let fragment =
            format!("a=ice-ufrag:newn\r\na=ice-pwd:{password}\r\na=candidate:2 1 UDP 1 192.0.2.2 5 typ host\r\n");
        let new = restarted(offer, &fragment).expect("an offer");
        let as_it_was = "v=0\r\na=group:BUNDLE 0\r\nm=video 9 x\r\na=mid:0\r\n";
        assert_eq!(new, format!("{as_it_was}a=ice-ufrag:newn\r\na=ice-pwd:{password}\r\na=rtcp-mux\r\n"));
        assert!(restarts(&fragment, offer) && !restarts(&fragment, &new));
        for wrong in
            ["a=ice-ufrag:newn\r\n", "a=ice-ufrag:n\r\na=ice-pwd:x\r\n", "a=ice-ufrag:new\u{e9}\r\na=ice-pwd:x"]
        {
            assert!(matches!(restarted(offer, wrong), Err(Refused::Unreadable(_))), "{wrong}");
        }
        let answer = format!("v=0\r\ns=-\r\n{}m=audio 9 y\r\na=mid:1\r\na=ice-ufrag:newn\r\n", &offer[5..]);
        assert_eq!(super::fragment(&answer).lines().filter(|line| line.starts_with("m=")).count(), 1);
        assert!(super::fragment(&answer).contains("a=candidate:1") && !super::fragment(&answer).contains("rtcp-mux"));
    }

    #[test]
    fn media_are_read_with_their_names() {
        let offer = "m=audio 9 x\r\na=mid:a0\r\nm=application 9 y\r\na=mid:d\r\nm=video 9 z\r\na=mid:v0\r\n";
        assert_eq!(lines(offer), [(MediaKind::Audio, "a0".into()), (MediaKind::Video, "v0".into())]);
    }
}
