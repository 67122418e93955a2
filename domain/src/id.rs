//! Names of tasks, runs and artifacts: digests, of a type each, so that none is taken for
//! another. The name of a file's bytes is a plain [`Digest`].

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, InvalidDigest};

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Digest);

        impl $name {
            /// The first eight digits, for display.
            pub fn short(&self) -> String {
                self.0.short()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidDigest;

            fn from_str(text: &str) -> Result<Self, InvalidDigest> {
                text.parse().map(Self)
            }
        }
    };
}

name! {
    /// Names a task: the digest of everything that determines its result.
    TaskKey
}

name! {
    /// Names a run: the digest of the keys of its tasks, in the order of the plan.
    RunId
}

name! {
    /// Names an artifact: the digest of its manifest.
    ArtifactId
}
