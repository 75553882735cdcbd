//! Recordings of streams: what the folder of the setting holds, and how much of it may be used.
//!
//! The engine writes; here is only told what to and what there is. A name is two numbers, when a recording began in Unix
//! milliseconds and the session's, and a file's name is made of those numbers and its format: no text of a request is ever
//! part of one.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use super::RecordConfig;
use super::hub::{Hub, HubError, unix_ms};
use crate::link::{Outcome, RecordFormat, RecordOrder};

/// Files that are told of, the newest first.
const MOST: usize = 1000;

/// Why there is no recording, or none of that name.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(in crate::supervisor) enum RecordingError {
    /// No folder is set.
    #[error("recordings are off; the setting record.path names their folder")]
    Off,
    /// No stream of that name, or none at all.
    #[error("no such stream is running")]
    NoStream,
    /// No recording of that name.
    #[error("no such recording")]
    Missing,
    /// It is still written.
    #[error("the recording is under way; stop it first")]
    UnderWay,
    /// The stream is recorded already, or its file could not be made.
    #[error("{0}")]
    Refused(String),
    /// The folder holds as much as it may.
    #[error(
        "recordings use {used} of {most} bytes, and another may come to {each} (record.max_total, record.max_size)"
    )]
    Full {
        /// What there is, those under way at their largest.
        used: u64,
        /// What there may be.
        most: u64,
        /// What one may come to.
        each: u64,
    },
    /// The folder.
    #[error("the folder of recordings cannot be used: {0}")]
    Folder(String),
    /// What the hub says.
    #[error("{0}")]
    Hub(#[from] HubError),
}

fn folder_error(error: std::io::Error) -> RecordingError {
    RecordingError::Folder(error.to_string())
}

/// The name of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::supervisor) struct Name {
    began_ms: u64,
    session: u64,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.began_ms, self.session)
    }
}

impl Name {
    /// Reads what [`Display`](std::fmt::Display) writes, and nothing else.
    pub fn read(text: &str) -> Option<Self> {
        let (began_ms, session) = text.split_once('-')?;
        let name = Self { began_ms: began_ms.parse().ok()?, session: session.parse().ok()? };
        (name.to_string() == text).then_some(name)
    }

    fn file(self, folder: &Path, format: RecordFormat) -> PathBuf {
        folder.join(format!("{self}.{}", format.ending()))
    }

    fn part(self, folder: &Path, format: RecordFormat) -> PathBuf {
        folder.join(format!("{self}.{}.part", format.ending()))
    }
}

/// How a recording is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::supervisor) enum Stage {
    /// It is written.
    Recording,
    /// It is whole.
    Whole,
    /// Whoever wrote it went away; it can be played up to there.
    CutOff,
}

/// A recording as callers see it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(in crate::supervisor) struct Recorded {
    /// Its name.
    pub id: String,
    /// Unix milliseconds at which it began.
    pub began_ms: u64,
    /// What its file is.
    pub format: RecordFormat,
    /// How it is.
    pub state: Stage,
    /// Bytes of its file.
    pub bytes: u64,
    /// While it is written: how long that has been, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// While it is written: segments that are not whole in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_segments: Option<u64>,
}

/// A file of a folder: its name, what it is, whether it is whole, and its bytes.
type Found = (Name, RecordFormat, bool, u64);

/// Reads the name of a file.
fn read(name: &str) -> Option<(Name, RecordFormat, bool)> {
    let (name, whole) = name.strip_suffix(".part").map_or((name, true), |name| (name, false));
    let (stem, ending) = name.split_once('.')?;
    let format = RecordFormat::ALL.into_iter().find(|format| format.ending() == ending)?;
    Some((Name::read(stem)?, format, whole))
}

/// What a folder holds, the newest first.
async fn look(folder: &Path) -> std::io::Result<Vec<Found>> {
    let mut entries = match tokio::fs::read_dir(folder).await {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    while let Some(entry) = entries.next_entry().await? {
        let name = entry.file_name();
        let Some((name, format, whole)) = name.to_str().and_then(read) else { continue };
        // One that was just removed or renamed is told of the next time.
        if let Ok(meta) = entry.metadata().await
            && meta.is_file()
        {
            found.push((name, format, whole, meta.len()));
        }
    }
    found.sort_by_key(|one| std::cmp::Reverse(one.0));
    Ok(found)
}

fn told(found: Vec<Found>, under_way: &Map<String, Value>) -> Vec<Recorded> {
    let one = |(name, format, whole, bytes): Found| {
        let id = name.to_string();
        let live = under_way.get(&id).filter(|_| !whole);
        Recorded {
            began_ms: name.began_ms,
            format,
            state: match (whole, live) {
                (true, _) => Stage::Whole,
                (false, Some(_)) => Stage::Recording,
                (false, None) => Stage::CutOff,
            },
            bytes,
            seconds: live.and_then(|live| live["seconds"].as_f64()),
            lost_segments: live.and_then(|live| live["lost_segments"].as_u64()),
            id,
        }
    };
    found.into_iter().take(MOST).map(one).collect()
}

/// Bytes that a folder may come to with what is under way.
fn used(found: &[Recorded], each: u64) -> u64 {
    let size = |one: &Recorded| if one.state == Stage::Recording { each.max(one.bytes) } else { one.bytes };
    found.iter().map(size).fold(0, u64::saturating_add)
}

/// The folder, made if need be.
fn folder(config: &RecordConfig) -> Result<&Path, RecordingError> {
    config.path.as_deref().ok_or(RecordingError::Off)
}

/// Every recording there is, the newest first.
///
/// # Errors
/// [`RecordingError::Off`], or the folder cannot be read.
pub(in crate::supervisor) async fn list(hub: &Hub) -> Result<Vec<Recorded>, RecordingError> {
    let folder = folder(&hub.config.record)?;
    // Asked first: one that ends meanwhile is whole in the folder.
    let under_way = hub.under_way().await;
    Ok(told(look(folder).await.map_err(folder_error)?, &under_way))
}

/// Begins to record the stream called `stream`, or the only one, as `format`.
///
/// # Errors
/// [`RecordingError`].
pub(in crate::supervisor) async fn start(
    hub: &Hub,
    stream: Option<&str>,
    format: RecordFormat,
) -> Result<Name, RecordingError> {
    let config = &hub.config.record;
    let folder = folder(config)?;
    let session = {
        let book = hub.book();
        match stream {
            Some(stream) => book.named(stream),
            None if book.running() > 1 => {
                return Err(RecordingError::Refused(super::hub::SEVERAL.to_owned()));
            }
            None => book.find(None),
        }
    };
    let session = session.ok_or(RecordingError::NoStream)?;
    tokio::fs::create_dir_all(folder).await.map_err(folder_error)?;
    let (each, most) = (config.max_size as u64, config.max_total as u64);
    let used = used(&list(hub).await?, each);
    if used.saturating_add(each) > most {
        return Err(RecordingError::Full { used, most, each });
    }
    let name = Name { began_ms: unix_ms(), session };
    let file = std::path::absolute(name.file(folder, format)).map_err(folder_error)?;
    let order = RecordOrder { name: name.to_string(), file, format, max_bytes: each, max_ms: config.max_time_ms };
    match hub.record(session, Some(order)).await {
        Ok(()) => Ok(name),
        Err(HubError::Engine(Outcome::NotFound)) => Err(RecordingError::NoStream),
        Err(HubError::Engine(Outcome::Failed { message })) => Err(RecordingError::Refused(message)),
        Err(error) => Err(error.into()),
    }
}

/// Ends a recording; its file is whole then. One that has ended already is left as it is.
///
/// # Errors
/// [`RecordingError`].
pub(in crate::supervisor) async fn stop(hub: &Hub, name: Name) -> Result<Recorded, RecordingError> {
    if one(hub, name).await?.state == Stage::Recording {
        match hub.record(name.session, None).await {
            Ok(()) | Err(HubError::Engine(Outcome::NotFound)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    one(hub, name).await
}

async fn one(hub: &Hub, name: Name) -> Result<Recorded, RecordingError> {
    let id = name.to_string();
    list(hub).await?.into_iter().find(|one| one.id == id).ok_or(RecordingError::Missing)
}

/// Where a recording that is not written any more lies.
async fn path(hub: &Hub, name: Name) -> Result<(PathBuf, RecordFormat, Stage), RecordingError> {
    let found = one(hub, name).await?;
    let folder = folder(&hub.config.record)?;
    let path = match found.state {
        Stage::Recording => return Err(RecordingError::UnderWay),
        Stage::Whole => name.file(folder, found.format),
        Stage::CutOff => name.part(folder, found.format),
    };
    Ok((path, found.format, found.state))
}

/// Bytes of a fragmented MP4 that was cut off somewhere up to which players read it: they take pictures of which a part is
/// missing (`mdat`), and refuse a file in which a table is (ISO/IEC 14496-12, boxes).
fn playable(mut file: impl Read + Seek) -> std::io::Result<u64> {
    let length = file.seek(SeekFrom::End(0))?;
    let mut at = 0;
    while at + 8 <= length {
        let mut head = [0; 16];
        let there = (length - at).min(16) as usize;
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut head[..there])?;
        let [a, b, c, d, k0, k1, k2, k3, long @ ..] = head;
        let size = match u32::from_be_bytes([a, b, c, d]) {
            1 if there == 16 => u64::from_be_bytes(long),
            size => u64::from(size),
        };
        let end = at.saturating_add(size);
        if size < 8 || (end > length && [k0, k1, k2, k3] != *b"mdat") {
            break;
        }
        at = end.min(length);
    }
    Ok(at)
}

/// The file of a recording that is not written any more, what it is, and its bytes up to which it can be played.
///
/// # Errors
/// [`RecordingError`].
pub(in crate::supervisor) async fn open(
    hub: &Hub,
    name: Name,
) -> Result<(tokio::fs::File, RecordFormat, u64), RecordingError> {
    let (path, format, stage) = path(hub, name).await?;
    let file = tokio::fs::File::open(path).await.map_err(folder_error)?;
    if (format, stage) != (RecordFormat::Mp4, Stage::CutOff) {
        let bytes = file.metadata().await.map_err(folder_error)?.len();
        return Ok((file, format, bytes));
    }
    let file = file.into_std().await;
    let looked = tokio::task::spawn_blocking(move || {
        let bytes = playable(&file)?;
        (&file).seek(SeekFrom::Start(0))?;
        Ok((file, bytes))
    });
    let (file, bytes) = looked.await.map_err(std::io::Error::from).flatten().map_err(folder_error)?;
    Ok((tokio::fs::File::from_std(file), format, bytes))
}

/// Deletes a recording that is not written any more.
///
/// # Errors
/// [`RecordingError`].
pub(in crate::supervisor) async fn delete(hub: &Hub, name: Name) -> Result<(), RecordingError> {
    let (path, ..) = path(hub, name).await?;
    tokio::fs::remove_file(path).await.map_err(folder_error)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_is_two_numbers_and_nothing_else() {
        let name = Name::read("1795256254123-7").expect("a name");
        assert_eq!(name.file(Path::new("/r"), RecordFormat::Ts), Path::new("/r/1795256254123-7.ts"));
        for text in
            ["", "-", "1-", "-1", "+1-2", "01-2", "1-2-3", "1-2.ts", "../1-2", "1-2/..", "1-2\0", "%2e%2e", "1 -2"]
        {
            assert_eq!(Name::read(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_leaves_the_folder(text in any::<String>()) {
            if let Some(name) = Name::read(&text) {
                let path = name.file(Path::new("/r"), RecordFormat::Mp4);
                prop_assert!(path.parent() == Some(Path::new("/r")));
            }
        }
    }

    fn a_box(kind: &[u8; 4], body: usize) -> Vec<u8> {
        [&(8 + body as u32).to_be_bytes()[..], kind, &vec![7; body]].concat()
    }

    #[test]
    fn what_is_cut_off_ends_before_a_table_that_is_not_whole() {
        let boxes =
            [a_box(b"ftyp", 20), a_box(b"moov", 90), a_box(b"moof", 60), a_box(b"mdat", 200), a_box(b"moof", 60)];
        let file = boxes.concat();
        let starts: Vec<usize> = boxes.iter().scan(0, |at, one| Some(std::mem::replace(at, *at + one.len()))).collect();
        let pictures = starts[3]..starts[4];
        for cut in 0..=file.len() {
            let whole = starts.iter().copied().chain([file.len()]).filter(|&at| at <= cut).max().unwrap_or(0);
            let wanted = if pictures.contains(&cut) && cut >= starts[3] + 8 { cut } else { whole };
            assert_eq!(playable(Cursor::new(&file[..cut])).expect("read"), wanted as u64, "{cut}");
        }
        // A size of its own eight bytes, and sizes that no box has.
        let long = [&1u32.to_be_bytes()[..], b"mdat", &24u64.to_be_bytes(), &[7; 8]].concat();
        assert_eq!(playable(Cursor::new(&long)).expect("read"), 24);
        for size in [0u32, 1, 7] {
            let odd = [&file[..28], &size.to_be_bytes(), b"moof"].concat();
            assert_eq!(playable(Cursor::new(&odd)).expect("read"), 28, "{size}");
        }
    }

    proptest! {
        #[test]
        fn no_file_is_longer_than_it_is(file in prop::collection::vec(prop_oneof![Just(0u8), Just(1), any::<u8>()], 0..200)) {
            prop_assert!(playable(Cursor::new(&file)).expect("read") <= file.len() as u64);
        }
    }

    #[tokio::test]
    async fn a_folder_is_told_by_what_is_in_it() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, bytes) in [
            ("30-1.ts", 5),
            ("40-2.ts.part", 7),
            ("50-2.ts.part", 9),
            ("x.ts", 1),
            ("20-1.mp4", 4),
            ("60-1.mkv", 1),
            ("note", 1),
        ] {
            std::fs::write(folder.path().join(name), vec![0; bytes]).expect("written");
        }
        std::fs::create_dir(folder.path().join("70-1.ts")).expect("made");
        let under_way = json!({"50-2": {"bytes": 3, "seconds": 1.5, "lost_segments": 2}, "30-1": {}});
        let found = told(look(folder.path()).await.expect("read"), under_way.as_object().expect("an object"));
        let short: Vec<_> = found.iter().map(|one| (one.id.as_str(), one.state, one.bytes)).collect();
        assert_eq!(
            short,
            [
                ("50-2", Stage::Recording, 9),
                ("40-2", Stage::CutOff, 7),
                ("30-1", Stage::Whole, 5),
                ("20-1", Stage::Whole, 4)
            ]
        );
        assert_eq!(found[3].format, RecordFormat::Mp4);
        assert_eq!((found[0].seconds, found[0].lost_segments), (Some(1.5), Some(2)));
        // What is under way may still come to its largest.
        assert_eq!((used(&found, 100), used(&found, 1)), (116, 25));
        assert!(look(&folder.path().join("none")).await.expect("nothing").is_empty());
    }
}
