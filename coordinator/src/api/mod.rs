//! The gRPC services, one per file. Each decodes a request, asks the driver and encodes the
//! answer.

mod artifacts;
mod cluster;
mod convert;
mod find;
mod recompute;
mod registration;
mod runs;
mod tasks;
mod tries;
mod workers;

pub use artifacts::Artifacts;
pub use cluster::Cluster;
pub(crate) use registration::CertAuthority;
pub use registration::Registration;
pub use runs::Runs;
pub use tasks::Tasks;
pub use workers::Workers;

use proto::status::{Reason, status};
use tonic::Status;

use crate::driver::Gone;

/// The status for a fault of the program, such as a thread that panicked.
fn internal(error: impl ToString) -> Status {
    Status::internal(error.to_string())
}

impl From<Gone> for Status {
    fn from(gone: Gone) -> Self {
        status(Reason::Ending, gone.to_string())
    }
}

impl From<crate::blobs::Error> for Status {
    fn from(error: crate::blobs::Error) -> Self {
        use crate::blobs::Error;
        let message = error.to_string();
        match error {
            Error::Unknown(_) => status(Reason::UnknownBlob, message),
            Error::Mismatch { .. } => status(Reason::DigestMismatch, message),
            Error::Damaged { .. } => status(Reason::DamagedBlob, message),
            Error::NotAManifest { .. } => status(Reason::NotAManifest, message),
            Error::Invalid { field, problem } => proto::convert::invalid(field, problem).into(),
            Error::Busy(_) => Status::unavailable(message),
            Error::NoRoom { .. } => status(Reason::DiskFull, message),
            Error::Io(error) if is_full(error.kind()) => {
                status(Reason::DiskFull, format!("the coordinator's {message}"))
            }
            Error::Bucket { .. } | Error::Unreadable { .. } => {
                tracing::error!(message, "blob store");
                Status::unavailable(message)
            }
            Error::Io(_) | Error::Place(_) | Error::Task(_) => {
                tracing::error!(message, "blob store");
                status(Reason::Storage, message)
            }
        }
    }
}

impl From<crate::journal::Error> for Status {
    fn from(error: crate::journal::Error) -> Self {
        status(Reason::Journal, error.to_string())
    }
}

impl From<crate::logs::Error> for Status {
    fn from(error: crate::logs::Error) -> Self {
        status(Reason::Storage, error.to_string())
    }
}

impl From<crate::gc::Error> for Status {
    fn from(error: crate::gc::Error) -> Self {
        use crate::gc::Error;
        match error {
            Error::Blobs(error) => error.into(),
            Error::Gone(gone) => gone.into(),
            Error::Unreadable { .. } => status(Reason::DamagedBlob, error.to_string()),
        }
    }
}

/// Whether an error means a full disk, so that a retry cannot help until somebody makes room.
fn is_full(kind: std::io::ErrorKind) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(kind, StorageFull | QuotaExceeded | FileTooLarge | ReadOnlyFilesystem)
}
