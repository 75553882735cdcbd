//! Entry points for fuzzers: any bytes in, no panic out.

use std::time::Instant;

use futures_util::FutureExt;

use super::admission::Limits;
use super::book::Book;
use crate::link::{FromEngine, Reader, ToEngine};

pub use super::api::{fuzz_start_body, fuzz_stream_body};

/// Feeds any bytes to both ends of the link, and what the supervisor understands to its book.
pub fn fuzz_link(data: &[u8]) {
    let mut book = Book::new("noop", 1, Limits { load: 0.9, free_memory: 0 }, Instant::now());
    let mut reader = Reader::<_, FromEngine>::new(data);
    while let Some(Ok(Some(message))) = reader.next().now_or_never() {
        let _ = book.engine_said(message, Instant::now());
        let _ = book.health(Instant::now());
        let _ = book.status(None);
    }
    let mut reader = Reader::<_, ToEngine>::new(data);
    while let Some(Ok(Some(_))) = reader.next().now_or_never() {}
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_entry_points_take_anything(mut data in proptest::collection::vec(any::<u8>(), 0..300), short in any::<bool>()) {
            if short && data.len() > 4 {
                data[..4].copy_from_slice(&[0, 0, 0, 3]);
            }
            fuzz_start_body(&data);
            fuzz_link(&data);
        }
    }
}
