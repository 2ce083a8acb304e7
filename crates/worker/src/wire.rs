//! The protocol between host and worker: frames of limited size over a socket.
//!
//! A frame is a message's length (four bytes, the least significant first) and the message. The host asks ([`Request`]),
//! each time under a new number; the worker answers under the same number ([`Message::Done`]), in any order, and tells
//! what happens meanwhile. The first message of all is [`Begin`].

use std::ffi::OsString;
use std::io;

use flowcell_bundle::CompileLimits;
use flowcell_egress::Exchange;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::news::Heard;
use crate::spec::{Job, SessionId, SessionSpec};
use crate::stored::{Hibernated, Holds};
use crate::usage::Snapshot;
use crate::work::Answer;

/// Longest message, in bytes: a call's answer with all that its nodes returned.
pub(crate) const MAX_FRAME: usize = 256 << 20;
/// Longest message about what happens in a job, in bytes.
pub(crate) const MAX_HEARD: usize = 4 << 20;
/// Longest message about a request that a guest has made, in bytes.
pub(crate) const MAX_REQUESTED: usize = 16 << 10;

/// How a worker is set up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Begin {
    /// The folder of the bundle store.
    pub(crate) store: OsString,
    /// Memory of all instances, in bytes.
    pub(crate) memory: u64,
    /// Instances that may be alive at once.
    pub(crate) instances: u32,
    /// Most memory of any instance, in bytes.
    pub(crate) instance_memory: u64,
    /// Threads that run guests.
    pub(crate) threads: u32,
    /// Memory that the compilation of a tenant's component may take, in bytes.
    pub(crate) compile_memory: u64,
    /// CPU time that it may take, in seconds.
    pub(crate) compile_seconds: u64,
}

impl Begin {
    pub(crate) fn compile_limits(&self) -> CompileLimits {
        CompileLimits {
            memory: self.compile_memory,
            cpu_seconds: self.compile_seconds,
        }
    }
}

/// What the host sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Do something.
    Do { id: u64, operation: Box<Operation> },
    /// Nobody waits for this job any more.
    Cancel { id: u64 },
    /// So many bytes of the job's parts have been taken.
    Taken { id: u64, bytes: u32 },
}

/// What is asked of a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Operation {
    /// Make sure of a session's base image. [`Reply::Opened`].
    Open(SessionSpec),
    /// Do some work. [`Reply::Answer`].
    Work(Job),
    /// Store a session's idle instances, and close its flow. [`Reply::Hibernated`].
    Hibernate(SessionId),
    /// Drop a session's idle instances, and close its flow. [`Reply::Ended`].
    Shrink(SessionId),
    /// Copy the stored instances of a session to another one. [`Reply::Forked`].
    Fork { from: SessionSpec, to: SessionSpec },
    /// What a session holds. [`Reply::Holds`].
    Inspect(SessionId),
    /// End a session: nothing of it is left. [`Reply::Ended`].
    End(SessionId),
}

/// What a worker sends.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Message {
    /// Something of a job was heard.
    Heard { id: u64, heard: Heard },
    /// What is in use.
    Used(Snapshot),
    /// An operation is over.
    Done { id: u64, reply: Reply },
    /// A part of a job's answer.
    Part { id: u64, text: String },
    /// A guest has made a request, which is over.
    Requested {
        session: SessionId,
        exchange: Exchange,
    },
}

/// What came of an operation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// The image is there, or why not.
    Opened(Result<(), String>),
    /// A job's answer.
    Answer(Answer),
    /// What is stored, and what is not.
    Hibernated(Hibernated),
    /// How many instances were copied, or why none.
    Forked(Result<u64, String>),
    /// What it holds.
    Holds(Holds),
    /// It is done.
    Ended,
}

/// A message that cannot be sent, or one that must not have been.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// The socket.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// It is too long.
    #[error("a message of {size} bytes, and {limit} are allowed")]
    TooLong {
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// It is none.
    #[error("a message that cannot be understood")]
    Nonsense(#[from] postcard::Error),
    /// There is more behind it.
    #[error("a message with {0} bytes too many")]
    Rest(usize),
}

/// A message as bytes.
///
/// # Errors
/// When it is longer than `limit`.
pub(crate) fn encode(message: &impl Serialize, limit: usize) -> Result<Vec<u8>, FrameError> {
    let bytes = postcard::to_allocvec(message)?;
    if bytes.len() > limit {
        return Err(FrameError::TooLong {
            size: bytes.len(),
            limit,
        });
    }
    Ok(bytes)
}

/// A message from bytes.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FrameError> {
    let (message, rest) = postcard::take_from_bytes(bytes)?;
    if rest.is_empty() {
        Ok(message)
    } else {
        Err(FrameError::Rest(rest.len()))
    }
}

/// Writes a frame.
pub(crate) async fn write(
    writer: &mut (impl AsyncWrite + Unpin),
    message: &[u8],
) -> Result<(), FrameError> {
    let length = u32::try_from(message.len()).map_err(|_| FrameError::TooLong {
        size: message.len(),
        limit: MAX_FRAME,
    })?;
    writer.write_all(&length.to_le_bytes()).await?;
    writer.write_all(message).await?;
    Ok(())
}

/// Reads a frame; `None` when the other side has gone. What is reserved for it grows with what has come.
pub(crate) async fn read(
    reader: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> Result<Option<Vec<u8>>, FrameError> {
    let mut length = [0; 4];
    match reader.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let size = u32::from_le_bytes(length) as usize;
    if size > limit {
        return Err(FrameError::TooLong { size, limit });
    }
    let mut message = Vec::with_capacity(size.min(64 << 10));
    reader.take(size as u64).read_to_end(&mut message).await?;
    Ok((message.len() == size).then_some(message))
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops where it fails"
)]
mod tests {
    use flowcell_executor::{RunError, Status};
    use proptest::prelude::*;

    use super::*;

    #[tokio::test]
    async fn frames_come_whole_and_in_order() {
        let (mut host, mut worker) = tokio::io::duplex(7);
        let messages = [vec![], vec![1; 3], vec![2; 100_000]];
        let sent = messages.clone();
        let writer = tokio::spawn(async move {
            for message in &sent {
                write(&mut worker, message).await.unwrap();
            }
        });
        for message in messages {
            assert_eq!(read(&mut host, MAX_FRAME).await.unwrap(), Some(message));
        }
        writer.await.unwrap();
        assert!(read(&mut host, MAX_FRAME).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_frame_that_is_too_long_is_refused_by_its_length() {
        let (mut host, mut worker) = tokio::io::duplex(64);
        let length = u32::try_from(MAX_FRAME + 1).unwrap();
        worker.write_all(&length.to_le_bytes()).await.unwrap();
        // Nothing follows, and the other side is still there.
        let refused = read(&mut host, MAX_FRAME).await.unwrap_err();
        assert!(
            matches!(refused, FrameError::TooLong { size, limit: MAX_FRAME } if size == MAX_FRAME + 1)
        );
        drop(worker);
    }

    #[tokio::test]
    async fn a_frame_that_breaks_off_is_an_end() {
        let (mut host, mut worker) = tokio::io::duplex(64);
        worker.write_all(&[10, 0, 0, 0, 1, 2]).await.unwrap();
        drop(worker);
        assert!(read(&mut host, MAX_FRAME).await.unwrap().is_none());
    }

    #[test]
    fn a_message_that_is_too_long_is_not_sent() {
        let done = |text: usize| Message::Done {
            id: 1,
            reply: Reply::Answer(Answer::json(Status::Completed, "x".repeat(text))),
        };
        assert!(encode(&done(100), 120).is_ok());
        let refused = encode(&done(200), 120).unwrap_err();
        assert!(matches!(refused, FrameError::TooLong { limit: 120, .. }));
    }

    #[test]
    fn errors_keep_what_is_known_of_them() {
        use std::error::Error as _;
        let mut error = RunError::user("SomeClass", "what happened");
        error.node = Some("node".to_owned());
        error.help = Some("what to do".to_owned());
        error.traceback = Some("frames".to_owned());
        error.source = Some(std::sync::Arc::new(io::Error::other("below")));
        let sent = encode(&Answer::failed(error.clone()), MAX_FRAME).unwrap();
        let received: Answer = decode(&sent).unwrap();
        let Err(received) = received.body else {
            panic!("{received:?}");
        };
        let fields = |error: &RunError| {
            (
                error.class.clone(),
                error.code,
                error.message.clone(),
                error.help.clone(),
                error.node.clone(),
                error.traceback.clone(),
                error.source().map(ToString::to_string),
            )
        };
        assert_eq!(fields(&received), fields(&error));
    }

    #[test]
    fn what_follows_a_message_is_nonsense() {
        let mut sent = encode(&Reply::Ended, MAX_FRAME).unwrap();
        sent.push(0);
        assert!(matches!(decode::<Reply>(&sent), Err(FrameError::Rest(1))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<Message>(&bytes);
        }

        #[test]
        fn answers_come_as_they_were_sent(text in ".*") {
            let answer = Answer::json(Status::Completed, text.clone());
            let sent = encode(&Message::Done { id: 7, reply: Reply::Answer(answer) }, MAX_FRAME).unwrap();
            let Message::Done { id: 7, reply: Reply::Answer(received) } = decode(&sent).unwrap() else {
                panic!("another message");
            };
            prop_assert_eq!(received.body.unwrap(), text);
        }
    }
}
