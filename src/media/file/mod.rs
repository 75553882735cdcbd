//! Files, capture devices and network addresses: for trying things and for work off-line.

mod address;
mod read;
mod record;
mod write;

pub use read::{AudioTrack, FileInfo, FileReader, MediaItem, Stopper};
pub use record::Recorder;
pub use write::{FileWriter, Quality, WriteConfig};

use super::MediaError;
use super::ffi::{AvError, Writer, WriterAudio, WriterVideo};

/// Whether a name is the address of a stream (`rtmp://…`) and not a file's.
pub fn is_address(name: &str) -> bool {
    address::address(name).is_some()
}

/// Whether a stream can be written to the address `name`.
pub fn takes_streams(name: &str) -> bool {
    address::address(name).is_some_and(|address| address.muxer.is_some())
}

/// Whether what is written to `name` has its parameter sets in the stream.
fn repeats_headers(name: &str) -> bool {
    address::address(name).is_some_and(|address| address.muxer == Some("mpegts"))
}

/// Whether Opus can be written to `name`, where that is known before it is tried.
fn takes_opus(name: &str) -> bool {
    address::address(name).is_none_or(|address| address.muxer != Some("flv"))
}

/// Time between the last byte that is written to `name` and the end that its receiver needs to get that byte.
fn rest(name: &str) -> std::time::Duration {
    address::address(name).map(|address| address.rest).unwrap_or_default()
}

/// Opens a file or an address for writing.
fn create(name: &str, video: Option<&WriterVideo<'_>>, audio: Option<&WriterAudio<'_>>) -> Result<Writer, AvError> {
    match address::address(name) {
        None => Writer::create(name, None, video, audio, &[]),
        Some(address) => Writer::create(&address.url, address.muxer, video, audio, &address.writing),
    }
}

fn file_error(path: &str, e: AvError) -> MediaError {
    MediaError::File { path: without_credentials(path), reason: e.to_string() }
}

/// An address without what stands between `//` and `@`, and without its query.
fn without_credentials(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return address.into() };
    let rest = rest.split_once('?').map_or(rest, |(before, _)| before);
    let host = rest.split_once('/').map_or(rest, |(host, _)| host);
    match host.rsplit_once('@') {
        Some((secret, _)) => format!("{scheme}://{}", &rest[secret.len() + 1..]),
        None => format!("{scheme}://{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::without_credentials;

    #[test]
    fn secrets_stay_out_of_errors() {
        assert_eq!(without_credentials("rtmp://me:pw@host/app?key=1"), "rtmp://host/app");
        assert_eq!(without_credentials("http://host/a@b"), "http://host/a@b");
        assert_eq!(without_credentials("/tmp/a@b.mp4"), "/tmp/a@b.mp4");
    }
}
