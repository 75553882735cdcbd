use std::fs;

use super::*;
use crate::metering::Interval;
use crate::metering::ledger::{Broken, Stream, read, verify};

fn metrics() -> Metrics {
    Metrics::new("1", 1).expect("metrics")
}

fn config(folder: &Path) -> LedgerConfig {
    LedgerConfig { path: Some(folder.to_owned()), ..LedgerConfig::default() }
}

fn interval(number: u64) -> Body {
    let interval = Interval { session: 1, number, ..Interval::default() };
    Body::Interval { stream: Stream::default(), interval: Box::new(interval), gpu: None }
}

fn kinds(folder: &Path) -> Vec<String> {
    let mut kinds = Vec::new();
    read(folder, |found| {
        let body = found.entry.map(|entry| entry.body);
        kinds.push(match body {
            Ok(Body::Opened { torn, .. }) => format!("opened {}", torn > 0),
            Ok(Body::Interval { interval, .. }) => interval.number.to_string(),
            Ok(Body::Lost { .. }) => "lost".into(),
            Ok(Body::Closed {}) => "closed".into(),
            other => format!("{other:?}"),
        });
        true
    })
    .expect("read");
    kinds
}

fn life(config: &LedgerConfig, numbers: std::ops::Range<u64>) {
    let metrics = metrics();
    let ledger = Ledger::start(config, "1", metrics.clone());
    numbers.for_each(|number| ledger.write(interval(number), &metrics));
    // The end waits for a second only, which a busy disk may need for a few lines.
    while ledger.shared.waiting.load(Ordering::Relaxed) > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(ledger);
    assert_eq!(metrics.ledger_waiting.get(), 0);
}

#[test]
fn lives_of_a_runner_join_on_to_each_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path());
    life(&config, 0..2);
    life(&config, 2..3);
    assert_eq!(kinds(folder.path()), ["opened false", "0", "1", "closed", "opened false", "2", "closed"]);
    let verified = verify(folder.path()).expect("read").expect("good");
    assert_eq!((verified.lines, verified.missing, verified.kills), (7, 0, 0));
}

#[test]
fn a_torn_line_is_cut_off_wherever_it_was_torn() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path());
    life(&config, 0..3);
    let path = folder.path().join(file_name(1));
    let whole = fs::read(&path).expect("read");
    // Killed in the middle of the last but one line: whatever was there of it, and then a new life.
    let lines: Vec<usize> = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at).collect();
    for cut in (lines[2] + 1..lines[3] + 1).step_by(17).chain([0, 5, lines[0], lines[0] + 1]) {
        fs::write(&path, &whole[..cut]).expect("written");
        life(&config, 9..10);
        let verified = verify(folder.path()).expect("read").unwrap_or_else(|found| panic!("{cut}: {found:?}"));
        assert!(verified.lines >= 3, "{cut}: {:?}", kinds(folder.path()));
        let torn = !(cut == 0 || lines.contains(&(cut - 1)));
        assert!(kinds(folder.path()).contains(&format!("opened {torn}")), "{cut}: {:?}", kinds(folder.path()));
        assert!(
            !folder
                .path()
                .read_dir()
                .expect("read")
                .any(|file| { file.expect("a file").file_name().to_string_lossy().starts_with("unreadable") })
        );
    }
    // Bytes that are no line at all, as a lost block leaves them, are kept beside.
    let mut bytes = whole.clone();
    bytes.extend([0; 100]);
    bytes.extend(b"\nxx\n");
    fs::write(&path, bytes).expect("written");
    life(&config, 9..10);
    verify(folder.path()).expect("read").expect("good");
    assert_eq!(
        folder
            .path()
            .read_dir()
            .expect("read")
            .filter(|file| { file.as_ref().expect("a file").file_name().to_string_lossy().starts_with("unreadable") })
            .count(),
        1
    );
}

#[test]
fn files_are_bounded_and_the_newest_stay() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = LedgerConfig { max_size: 32 * 1024, ..config(folder.path()) };
    life(&config, 0..100);
    let sizes: Vec<u64> =
        files(folder.path()).expect("files").iter().map(|(_, path)| fs::metadata(path).expect("there").len()).collect();
    assert!(sizes.len() > 3 && sizes.iter().all(|&size| size <= 4096), "{sizes:?}");
    assert!(sizes.iter().sum::<u64>() <= 32 * 1024, "{sizes:?}");
    let verified = verify(folder.path()).expect("read").expect("good");
    assert!(verified.first > 1);
    assert_eq!(kinds(folder.path()).last().map(String::as_str), Some("closed"));
}

#[test]
fn old_files_go() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = LedgerConfig { max_size: 32 * 1024, max_age_ms: 3_600_000, ..config(folder.path()) };
    life(&config, 0..20);
    let before = files(folder.path()).expect("files");
    assert!(before.len() > 2, "{before:?}");
    let file = File::options().append(true).open(&before[0].1).expect("open");
    file.set_modified(SystemTime::now() - Duration::from_secs(7200)).expect("set");
    life(&config, 20..21);
    let after = files(folder.path()).expect("files");
    assert!(!after.contains(&before[0]) && after.contains(&before[1]), "{after:?}");
}

#[test]
fn two_runners_never_write_one_ledger() {
    let folder = tempfile::tempdir().expect("a folder");
    let (ours, theirs) = (metrics(), metrics());
    let config = config(folder.path());
    let first = Ledger::start(&config, "1", ours.clone());
    first.write(interval(0), &ours);
    while ours.ledger_lines.get() < 2 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let second = Ledger::start(&config, "1", theirs.clone());
    while theirs.ledger_errors.get() == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(theirs.ledger_failing.get(), 1);
    drop(second);
    drop(first);
    assert_eq!(verify(folder.path()).expect("read").expect("good").lines, 3);
}

#[test]
fn a_full_disk_is_waited_out_and_what_was_lost_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let room = Arc::new(AtomicU64::new(2_500));
    let metrics = metrics();
    let shared = Arc::new(Shared::default());
    let (queue, lines) = sync_channel(4);
    let disk = room.clone();
    let writer = Writer {
        folder: folder.path().to_owned(),
        optional: false,
        most: 1 << 20,
        age: Duration::from_secs(3600),
        version: "1".into(),
        open_file: move |path: &Path| {
            let file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
            Ok(Store { file, room: Some(disk.clone()) })
        },
        metrics: metrics.clone(),
        shared: shared.clone(),
        state: None,
        waiting: VecDeque::new(),
        tidied: None,
    };
    let thread = std::thread::spawn(move || writer.run(&lines));
    let ledger = Ledger { queue: Some(queue), shared, thread: Some(thread) };
    // A disk takes its time, so the room ends when it ends.
    let mut number = 0;
    while metrics.ledger_failing.get() == 0 {
        assert!(number < 30_000, "a full disk went unnoticed");
        ledger.write(interval(number), &metrics);
        number += 1;
        std::thread::sleep(Duration::from_millis(1));
    }
    // Nobody waits: 40 more lines are taken or counted at once.
    let began = metrics.ledger_lost.get();
    for more in 0..40 {
        ledger.write(interval(number + more), &metrics);
    }
    assert_eq!(metrics.ledger_failing.get(), 1);
    assert!(metrics.ledger_lost.get() - began >= 36, "the queue holds four");
    let lost = metrics.ledger_lost.get();
    assert!(metrics.ledger_errors.get() > 0, "{lost}");
    assert!(matches!(
        verify(folder.path()).expect("read"),
        Ok(_) | Err(crate::metering::ledger::Found { entry: Err(Broken::Torn), .. })
    ));
    room.store(1 << 30, Ordering::Relaxed);
    while metrics.ledger_failing.get() == 1 {
        std::thread::sleep(Duration::from_millis(1));
    }
    ledger.write(interval(number + 40), &metrics);
    drop(ledger);
    let told: u64 = {
        let mut told = 0;
        read(folder.path(), |found| {
            if let Ok(Body::Lost { count }) = found.entry.map(|entry| entry.body) {
                told += count;
            }
            true
        })
        .expect("read");
        told
    };
    assert_eq!(told, lost);
    let verified = verify(folder.path()).expect("read").expect("good");
    assert_eq!(verified.missing, lost);
}

#[test]
fn an_optional_ledger_is_left_out_where_nothing_can_be_written() {
    for (optional, kind) in
        [(true, std::io::ErrorKind::ReadOnlyFilesystem), (false, std::io::ErrorKind::PermissionDenied)]
    {
        let folder = tempfile::tempdir().expect("a folder");
        let (metrics, shared) = (metrics(), Arc::new(Shared::default()));
        let (queue, lines) = sync_channel(QUEUE);
        let writer = Writer {
            folder: folder.path().to_owned(),
            optional,
            most: 1 << 20,
            age: Duration::from_secs(3600),
            version: "1".into(),
            open_file: move |_: &Path| Err::<Store, _>(kind.into()),
            metrics: metrics.clone(),
            shared: shared.clone(),
            state: None,
            waiting: VecDeque::new(),
            tidied: None,
        };
        let thread = std::thread::spawn(move || writer.run(&lines));
        let mut ledger = Ledger { queue: Some(queue), shared: shared.clone(), thread: Some(thread) };
        // Either the thread is over, or it has complained.
        while !shared.off.load(Ordering::Relaxed) && metrics.ledger_failing.get() == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        ledger.write(interval(0), &metrics);
        assert_eq!(shared.off.load(Ordering::Relaxed), optional);
        assert_eq!(metrics.ledger_failing.get(), i64::from(!optional));
        assert_eq!(metrics.ledger_waiting.get(), i64::from(!optional), "a line waits only where there is hope");
        assert_eq!(metrics.ledger_lost.get(), 0);
        shared.ending.store(true, Ordering::Relaxed);
        ledger.queue = None;
    }
}
