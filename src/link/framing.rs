//! Length-delimited JSON over any pair of byte streams.

use futures_util::{SinkExt, StreamExt};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

use super::MAX_MESSAGE;

/// Why a message could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The pipe broke, or a frame claims to be longer than [`MAX_MESSAGE`].
    #[error("the link between supervisor and engine broke: {0}")]
    Io(#[from] std::io::Error),
    /// The bytes of a frame are no message.
    #[error("the other side of the link sent something that is no message: {0}")]
    Json(#[from] serde_json::Error),
}

fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().max_frame_length(MAX_MESSAGE).new_codec()
}

/// Reads messages of type `M`.
pub struct Reader<R, M> {
    frames: FramedRead<R, LengthDelimitedCodec>,
    marker: std::marker::PhantomData<fn() -> M>,
}

impl<R: AsyncRead + Unpin, M: DeserializeOwned> Reader<R, M> {
    /// Reads from `inner`.
    pub fn new(inner: R) -> Self {
        Self { frames: FramedRead::new(inner, codec()), marker: std::marker::PhantomData }
    }

    /// The next message; `None` when the other side closed the pipe. Cancelling loses nothing.
    ///
    /// # Errors
    /// [`LinkError`]; the link is of no use after it.
    pub async fn next(&mut self) -> Result<Option<M>, LinkError> {
        match self.frames.next().await {
            None => Ok(None),
            Some(frame) => Ok(Some(serde_json::from_slice(&frame?)?)),
        }
    }
}

/// Writes messages of type `M`.
pub struct Writer<W, M> {
    frames: FramedWrite<W, LengthDelimitedCodec>,
    marker: std::marker::PhantomData<fn(M)>,
}

impl<W: AsyncWrite + Unpin, M: Serialize> Writer<W, M> {
    /// Writes to `inner`.
    pub fn new(inner: W) -> Self {
        Self { frames: FramedWrite::new(inner, codec()), marker: std::marker::PhantomData }
    }

    /// Sends one message and flushes it.
    ///
    /// # Errors
    /// [`LinkError::Io`] when the other side is gone or the message is too long.
    pub async fn send(&mut self, message: &M) -> Result<(), LinkError> {
        let bytes = serde_json::to_vec(message)?;
        self.frames.send(bytes::Bytes::from(bytes)).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FromEngine, Phase, ToEngine};
    use super::*;

    #[tokio::test]
    async fn messages_survive_the_trip() {
        let (a, b) = tokio::io::duplex(64);
        let sender = tokio::spawn(async move {
            let mut writer = Writer::<_, FromEngine>::new(a);
            for busy_ms in 0..50 {
                writer.send(&FromEngine::Beat { busy_ms }).await.expect("send");
            }
            writer
                .send(&FromEngine::Phase(Phase::Ready { load_ms: 7, instances: 2, provider: None }))
                .await
                .expect("send");
        });
        let mut reader = Reader::<_, FromEngine>::new(b);
        let mut count = 0;
        while let Some(message) = reader.next().await.expect("next") {
            match message {
                FromEngine::Beat { busy_ms } => assert_eq!(busy_ms, count),
                FromEngine::Phase(Phase::Ready { load_ms, instances, .. }) => {
                    assert_eq!((load_ms, instances, count), (7, 2, 50))
                }
                other => panic!("unexpected {other:?}"),
            }
            count += 1;
        }
        sender.await.expect("sender");
        assert_eq!(count, 51);
    }

    #[tokio::test]
    async fn a_frame_that_is_no_message_is_an_error() {
        let bytes: &[u8] = &[0, 0, 0, 2, b'{', b'x'];
        let mut reader = Reader::<_, ToEngine>::new(bytes);
        assert!(matches!(reader.next().await, Err(LinkError::Json(_))));
    }

    #[tokio::test]
    async fn a_frame_that_claims_too_much_is_an_error() {
        let bytes: &[u8] = &[0xff, 0xff, 0xff, 0xff, 0];
        let mut reader = Reader::<_, ToEngine>::new(bytes);
        assert!(matches!(reader.next().await, Err(LinkError::Io(_))));
    }
}
