//! The data protocol: what OSDs, gateways and other OSDs say to each other over TCP, and the bytes of it.
//!
//! [`Message`] is the plain form that cores handle; [`encode`] and [`Encoder`] turn it into frames, [`Decoder`] turns a stream back.
//! A connection is opened by one side, which sends requests; the other side sends replies on the same connection.

#![forbid(unsafe_code)]

mod body;
mod decoder;
mod error;
mod field;
mod frame;
mod message;
#[cfg(test)]
mod tests;

pub use decoder::Decoder;
pub use error::FrameError;
pub use field::MAX_LIST_ITEMS;
pub use frame::{
    DataVersion, EncodedFrame, Encoder, FRAME_ALIGN, HEADER_BYTES, Kind, MAX_BODY_BYTES, MAX_FRAME_BYTES,
    MAX_PAYLOAD_BYTES, encode,
};
pub use message::{
    BlockState, Change, ClientHello, Commit, CreditGrant, CreditRequest, Decide, Decided, Decision, DigestEntry,
    DigestReply, DigestRequest, FetchReply, FetchRequest, FloorRaised, Hello, HelloReply, HelloStatus, IoKind, IoReply,
    IoRequest, IoStatus, JoinChunks, JoinMeta, JoinStart, LayerRun, LayersReply, LayersRequest, LeaseGrant,
    LeaseRequest, Message, Outcome, OverReply, OverRequest, PeerHello, Prepare, Prepared, Promise, PromiseReply, Push,
    Pushed, PushedBlock, RaiseFloor, Report, ReportedChunk, ReportedWrite, ReservedGrant, ReservedRequest, RetryId,
    STACKS_KEPT, Stack, WriteMeta,
};
