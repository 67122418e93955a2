//! Numbers computed by reference implementations, in the folder that the
//! environment variable LITHOGEN_GOLDEN names.

mod stats;
