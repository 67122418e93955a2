//! The wire between a coordinator and whoever talks to it, and what both ends need for it.
//! It translates, rejects and transfers; it does not decide.
//!
//! | module | what it holds |
//! |---|---|
//! | [`v1`] | messages, clients and servers, generated from `lithogen/v1/*.proto` |
//! | [`convert`] | wire to domain and back; decoding is validating |
//! | [`status`] | refusals as gRPC statuses with details, and which are final |
//! | [`codec`] | messages on a connection, and the memory that their streams take |
//! | [`link`] | the way to a coordinator, and files on it; its modules are named here as well |
//! | [`private`] | folders and files for their owner alone: state, keys |
//! | [`path_error`] | what went wrong with a file |
//! | [`clock`] | the time of day |
//! | [`trace`] | where a span is in a trace that goes through several processes |
//! | [`window`] | pages and metrics over HTTP, of both servers |

pub mod clock;
pub mod codec;
pub mod convert;
pub mod link;
pub mod path_error;
pub mod private;
pub mod status;
pub mod trace;
pub mod window;

pub use link::{address, backoff, channel, encoding, identity, join_token, peer, tls, transfer};

/// Messages, clients and servers, generated from `lithogen/v1`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::too_many_lines,
    clippy::allow_attributes_without_reason,
    unreachable_pub,
    reason = "generated"
)]
pub mod v1 {
    tonic::include_proto!("lithogen.v1");
}

impl v1::RunState {
    /// Whether nothing more will happen to the run by itself.
    pub fn is_over(self) -> bool {
        matches!(self, v1::RunState::Succeeded | v1::RunState::Failed | v1::RunState::Cancelled)
    }
}

/// Version of the protocol. Coordinator and worker have to agree on it.
pub const PROTOCOL: u32 = 2;

/// The compiled `.proto` files, for the reflection service.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
