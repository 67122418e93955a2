//! The way between a coordinator and whoever talks to it: how it is found, reached,
//! trusted and encrypted, and how files travel on it.
//!
//! | module | what it holds |
//! |---|---|
//! | [`address`] | where a coordinator is |
//! | [`channel`] | the way to a coordinator, or to several; deadlines and keepalive of both sides |
//! | [`backoff`] | pauses between tries |
//! | [`peer`] | whose a port of this machine is |
//! | [`tls`] | encryption of both sides |
//! | [`join_token`] | which coordinator to join, and a secret |
//! | [`identity`] | who somebody is to a coordinator: key, certificate, CA |
//! | [`encoding`] | the form in which files are stored and sent |
//! | [`transfer`] | artifacts to and from folders |

pub mod address;
pub mod backoff;
pub mod channel;
pub mod encoding;
pub mod identity;
pub mod join_token;
pub mod peer;
pub mod tls;
pub mod transfer;
