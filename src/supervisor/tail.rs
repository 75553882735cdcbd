//! What the engine writes to its standard error: copied to ours, and its last lines kept for whoever asks why it died.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Lines kept.
pub(super) const LINES: usize = 100;
/// Longest line kept in bytes; the rest of a longer one becomes the next line.
pub(super) const LINE: usize = 4096;

/// The last lines. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub(super) struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    /// The last lines, oldest first.
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn push(&self, line: &[u8]) {
        let text = String::from_utf8_lossy(line).trim_end().to_owned();
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES {
            lines.pop_front();
        }
        lines.push_back(text);
    }
}

/// Cuts bytes into lines of at most [`LINE`] bytes.
#[derive(Debug, Default)]
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Takes the next bytes and gives every line that ends in them, without its end.
    fn push(&mut self, mut bytes: &[u8], mut line: impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            let room = LINE - self.rest.len();
            let head = &bytes[..bytes.len().min(room)];
            match head.iter().position(|&byte| byte == b'\n') {
                Some(end) => {
                    self.rest.extend_from_slice(&head[..end]);
                    bytes = &bytes[end + 1..];
                }
                None => {
                    self.rest.extend_from_slice(head);
                    bytes = &bytes[head.len()..];
                    if self.rest.len() < LINE {
                        continue;
                    }
                }
            }
            line(&self.rest);
            self.rest.clear();
        }
    }

    fn finish(self, mut line: impl FnMut(&[u8])) {
        if !self.rest.is_empty() {
            line(&self.rest);
        }
    }
}

/// Copies `from` to `to` and into `tail`, until it ends. Whole lines only, so that two writers do not mix.
pub(super) async fn copy(mut from: impl AsyncRead + Unpin, tail: Tail, mut to: impl AsyncWrite + Unpin) {
    let mut buffer = vec![0; 8192];
    let mut lines = Lines::default();
    let mut out = Vec::new();
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        lines.push(&buffer[..count], |line| {
            tail.push(line);
            out.extend_from_slice(line);
            out.push(b'\n');
        });
        // A closed destination is no reason to stop keeping the tail.
        let _ = to.write_all(&out).await;
        let _ = to.flush().await;
        out.clear();
    }
    lines.finish(|line| tail.push(line));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[tokio::test]
    async fn the_last_hundred_lines_are_kept() {
        let text: String = (0..250).map(|line| format!("line {line}\n")).collect();
        let tail = Tail::default();
        copy((text + "no end").as_bytes(), tail.clone(), tokio::io::sink()).await;
        let lines = tail.lines();
        assert_eq!(lines.len(), LINES);
        assert_eq!((lines[0].as_str(), lines[99].as_str()), ("line 151", "no end"));
    }

    proptest! {
        #[test]
        fn cutting_does_not_depend_on_the_pieces(
            text in "[a-c\n]{0,300}",
            long in 0usize..3,
            piece in 1usize..5000,
        ) {
            let text = format!("{text}{}\nend", "x".repeat(long * 3000));
            let mut lines = Lines::default();
            let mut seen: Vec<Vec<u8>> = Vec::new();
            for bytes in text.as_bytes().chunks(piece) {
                lines.push(bytes, |line| seen.push(line.to_vec()));
            }
            lines.finish(|line| seen.push(line.to_vec()));
            prop_assert!(seen.iter().all(|line| line.len() <= LINE));
            let joined: Vec<u8> = seen.concat();
            prop_assert_eq!(joined, text.bytes().filter(|&byte| byte != b'\n').collect::<Vec<_>>());
        }
    }
}
