//! The wire: messages generated from `lithogen/v1/*.proto`, their translation to
//! domain types, and both ends' channel settings. It translates and rejects; it
//! does not decide.
//!
//! | module | what it holds |
//! |---|---|
//! | [`v1`] | generated messages, clients and servers |
//! | [`convert`] | wire to domain and back; decoding is validating |
//! | [`status`] | refusals as gRPC statuses with details, and which are final |
//! | [`address`] | where a coordinator is |
//! | [`channel`] | the way to it; deadlines and keepalive of both sides |
//! | [`peer`] | whose a port of this machine is |
//! | [`codec`] | messages on it, and the memory that their streams take |
//! | [`encoding`] | the form in which files are stored and sent |
//! | [`tls`] | encryption of both sides |
//! | [`join_token`] | which coordinator to join, and a secret |
//! | [`identity`] | who somebody is to a coordinator: key, certificate, CA |
//! | [`private`] | folders and files for their owner alone: state, keys |
//! | [`transfer`] | artifacts to and from folders |
//! | [`backoff`] | pauses between tries |
//! | [`clock`] | the time of day |
//! | [`path_error`] | what went wrong with a file |

pub mod address;
pub mod backoff;
pub mod channel;
pub mod clock;
pub mod codec;
pub mod convert;
pub mod encoding;
pub mod identity;
pub mod join_token;
pub mod path_error;
pub mod peer;
pub mod private;
pub mod status;
pub mod tls;
pub mod transfer;

/// Generated from `lithogen/v1`.
#[allow(missing_docs, clippy::all, clippy::allow_attributes_without_reason, unreachable_pub, reason = "generated")]
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
