//! Names of inputs and outputs that are addresses, and what FFmpeg has to be told about them.
//!
//! `?listen=1` behind an RTMP, RTSP or SRT address turns the roles round: who sends, or who wants to see, comes to us.

use std::time::Duration;

/// Microseconds without a byte after which a connection is given up.
const SILENCE: &str = "10000000";

/// Time that SRT keeps what it received before it hands it on, unless the address says so otherwise (`latency`, in
/// microseconds). A receiver throws away what it still keeps when its sender closes.
const SRT_LATENCY: Duration = Duration::from_millis(120);
/// What the way itself may add.
const SRT_WAY: Duration = Duration::from_millis(150);
/// Longest wait before a sender closes.
const MOST_REST: Duration = Duration::from_secs(10);

/// An address as FFmpeg opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// Without what is ours.
    pub url: String,
    /// What is written; `None` where FFmpeg knows by the address, or does not write there.
    pub muxer: Option<&'static str>,
    /// Options of FFmpeg for reading it.
    pub reading: Vec<(&'static str, &'static str)>,
    /// Options of FFmpeg for writing to it.
    pub writing: Vec<(&'static str, &'static str)>,
    /// Time between the last byte and the end that its receiver needs to get that byte.
    pub rest: Duration,
}

/// The scheme of a name that is an address.
pub(super) fn scheme(name: &str) -> Option<&str> {
    name.split_once("://").map(|(scheme, _)| scheme).filter(|scheme| scheme.len() > 1)
}

/// `name` as an address; `None` when it is a file's.
pub(super) fn address(name: &str) -> Option<Address> {
    let scheme = scheme(name)?.to_ascii_lowercase();
    let (mut url, listens) = match scheme.as_str() {
        "rtmp" | "rtsp" | "srt" => without_listen(name),
        _ => (name.to_owned(), false),
    };
    // A short look is enough to know a live stream.
    let mut reading = vec![("rw_timeout", SILENCE), ("analyzeduration", "2500000")];
    let mut writing = vec![("rw_timeout", SILENCE)];
    let mut rest = Duration::ZERO;
    let muxer = match scheme.as_str() {
        "rtmp" | "rtmps" => {
            if listens {
                reading.push(("listen", "1"));
                writing.push(("listen", "1"));
            }
            // Nobody seeks back to write down a length.
            writing.push(("flvflags", "no_duration_filesize"));
            Some("flv")
        }
        "rtsp" | "rtsps" => {
            reading.push(("rtsp_transport", "tcp"));
            writing.push(("rtsp_transport", "tcp"));
            if listens {
                reading.push(("rtsp_flags", "listen"));
            }
            Some("rtsp")
        }
        "srt" => {
            // What was written last still leaves when the socket is closed.
            writing.push(("linger", "5"));
            rest = (latency(name).unwrap_or(SRT_LATENCY) + SRT_WAY).min(MOST_REST);
            if listens {
                url.push_str(if url.contains('?') { "&mode=listener" } else { "?mode=listener" });
            }
            Some("mpegts")
        }
        "udp" | "tcp" => Some("mpegts"),
        _ => None,
    };
    Some(Address { url, muxer, reading, writing, rest })
}

/// What an SRT address says of its latency.
fn latency(name: &str) -> Option<Duration> {
    let (_, query) = name.split_once('?')?;
    let micros = query.split('&').find_map(|part| part.strip_prefix("latency="))?;
    micros.parse().ok().map(Duration::from_micros)
}

/// Takes `listen=1` out of a query.
fn without_listen(name: &str) -> (String, bool) {
    let Some((before, query)) = name.split_once('?') else { return (name.to_owned(), false) };
    let kept: Vec<&str> = query.split('&').filter(|&part| part != "listen=1").collect();
    let listens = kept.len() < query.split('&').count();
    match kept.as_slice() {
        [] => (before.to_owned(), listens),
        kept => (format!("{before}?{}", kept.join("&")), listens),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_no_addresses() {
        for name in ["in.mp4", "/dev/video0", "c:/x.mp4", "://x", "-"] {
            assert_eq!(address(name), None, "{name}");
        }
    }

    #[test]
    fn srt_rests_before_it_closes() {
        let rest = |name: &str| address(name).expect("an address").rest;
        assert_eq!(rest("srt://h:1"), SRT_LATENCY + SRT_WAY);
        assert_eq!(rest("srt://h:1?mode=listener&latency=500000"), Duration::from_millis(650));
        assert_eq!(rest("srt://h:1?latency=99999999999"), MOST_REST);
        assert_eq!(rest("rtmp://h/a?latency=500000"), Duration::ZERO);
    }

    #[test]
    fn who_comes_to_whom_is_said_in_ffmpegs_words() {
        for (name, url, muxer, option) in [
            ("rtmp://h/live/a?key=1", "rtmp://h/live/a?key=1", Some("flv"), None),
            ("rtmp://h/live/a?listen=1", "rtmp://h/live/a", Some("flv"), Some(("listen", "1"))),
            ("rtmp://h/a?k=2&listen=1", "rtmp://h/a?k=2", Some("flv"), Some(("listen", "1"))),
            ("rtsp://h:1/a?listen=1", "rtsp://h:1/a", Some("rtsp"), Some(("rtsp_flags", "listen"))),
            ("srt://h:1?listen=1", "srt://h:1?mode=listener", Some("mpegts"), None),
            ("srt://h:1?latency=9&listen=1", "srt://h:1?latency=9&mode=listener", Some("mpegts"), None),
            ("http://h/a?listen=1", "http://h/a?listen=1", None, None),
        ] {
            let address = address(name).expect("an address");
            assert_eq!((address.url.as_str(), address.muxer), (url, muxer), "{name}");
            let listens = |(key, _): &&(&str, &str)| ["listen", "rtsp_flags"].contains(key);
            assert_eq!(address.reading.iter().find(listens).copied(), option, "{name}");
        }
    }
}
