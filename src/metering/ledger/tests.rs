use std::path::Path;

use proptest::prelude::*;

use super::*;

fn stream(id: &str) -> Stream {
    Stream { stream_id: id.into(), manifest_id: "m".into(), request_id: "r".into(), started_ms: 5 }
}

fn interval(number: u64) -> Body {
    let interval = Interval { session: 1, number, fps: 29.97, ..Interval::default() };
    Body::Interval { stream: stream("s"), interval: Box::new(interval), gpu: None }
}

fn write(folder: &Path, bodies: Vec<Body>, in_a_file: usize) -> Tip {
    let mut tip = Tip::default();
    let mut name = String::new();
    let mut text = String::new();
    for (index, body) in bodies.into_iter().enumerate() {
        if index % in_a_file == 0 {
            name = file_name(tip.seq);
            text.clear();
        }
        let (line, next) = tip.line(1_000 + index as u64, body);
        text += &line;
        tip = next;
        std::fs::write(folder.join(&name), &text).expect("written");
    }
    tip
}

#[test]
fn a_line_has_its_chain_in_front_and_reads_as_it_was_written() {
    let (line, tip) = Tip::default().line(7, interval(0));
    assert!(
        line.starts_with(&format!("{{\"v\":1,\"seq\":1,\"prev\":\"{NOTHING}\",\"at_ms\":7,\"kind\":\"interval\",")),
        "{line}"
    );
    assert_eq!(tip, Tip { seq: 2, hash: hash(line.trim_end().as_bytes()) });
    let entry = Chain::new().push(line.trim_end().as_bytes()).expect("a line");
    assert_eq!(entry.body, interval(0));
    assert_eq!(hash(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

#[test]
fn a_good_ledger_is_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    let opened = || Body::Opened { version: "1".into(), torn: 0 };
    let ended = Body::Ended { stream: stream("s"), session: 1, reason: "x".into(), fault: false };
    let bodies =
        vec![opened(), interval(0), interval(1), opened(), interval(3), ended, Body::Closed {}, opened(), interval(0)];
    let tip = write(folder.path(), bodies, 4);
    assert_eq!(files(folder.path()).expect("files").iter().map(|file| file.0).collect::<Vec<_>>(), [1, 5, 9]);
    let verified = verify(folder.path()).expect("read").expect("good");
    assert_eq!(verified, Verified { first: 1, lines: 9, missing: 1, kills: 1, hash: tip.hash });
    // Whoever removes whole old files leaves a chain that holds and begins later.
    std::fs::remove_file(folder.path().join(file_name(1))).expect("removed");
    assert_eq!(verify(folder.path()).expect("read").expect("good").first, 5);
    // A file removed from the middle leaves a gap.
    let (line, _) = Tip::default().line(1, interval(0));
    std::fs::write(folder.path().join(file_name(1)), line).expect("written");
    let found = verify(folder.path()).expect("read").expect_err("a gap");
    assert_eq!(found.entry, Err(Broken::Number { expected: 2, found: 5 }));
}

#[test]
fn a_torn_line_and_an_unknown_version_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), vec![interval(0), interval(1)], 10);
    let path = folder.path().join(file_name(1));
    let text = std::fs::read_to_string(&path).expect("read");
    std::fs::write(&path, text.trim_end()).expect("written");
    let found = verify(folder.path()).expect("read").expect_err("torn");
    assert_eq!((found.line, found.entry), (2, Err(Broken::Torn)));
    std::fs::write(&path, text.replacen("\"v\":1", "\"v\":9", 1)).expect("written");
    let found = verify(folder.path()).expect("read").expect_err("unknown");
    assert_eq!((found.line, found.entry), (1, Err(Broken::Version(9))));
    assert!(matches!(verify(&folder.path().join("none")), Err(LedgerError::Io { .. })));
    std::fs::remove_file(&path).expect("removed");
    assert!(matches!(verify(folder.path()), Err(LedgerError::Missing(_))));
}

proptest! {
    #[test]
    fn any_change_of_any_line_but_the_last_shows(
        count in 2..12_usize,
        at in any::<prop::sample::Index>(),
        change in 0..4_u8,
        digit in any::<prop::sample::Index>(),
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), (0..count as u64).map(interval).collect(), 100);
        let path = folder.path().join(file_name(1));
        let text = std::fs::read_to_string(&path).expect("read");
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let line = at.index(count - 1);
        match change {
            0 => drop(lines.remove(line)),
            1 => lines.swap(line, line + 1),
            2 => { let copy = lines[line].clone(); lines.insert(line, copy); }
            _ => {
                let digits: Vec<usize> = lines[line].char_indices().filter(|c| c.1.is_ascii_digit()).map(|c| c.0).collect();
                let place = digits[digit.index(digits.len())];
                let other = if &lines[line][place..=place] == "7" { "8" } else { "7" };
                lines[line].replace_range(place..=place, other);
            }
        }
        // The first line may be gone for its age; whoever removes it leaves a ledger that begins later.
        std::fs::write(&path, lines.join("\n") + "\n").expect("written");
        let result = verify(folder.path()).expect("read");
        if change == 0 && line == 0 {
            prop_assert_eq!(result.map(|good| good.first).ok(), Some(2));
        } else {
            prop_assert!(result.is_err());
        }
    }

    #[test]
    fn no_bytes_break_the_reader(data in proptest::collection::vec(any::<u8>(), 0..300)) {
        fuzz_ledger(&data);
    }
}
