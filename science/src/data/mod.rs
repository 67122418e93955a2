//! Pictures: reading, resizing, masks, contact sheets and stand-ins.
//!
//! | module | what it holds |
//! |---|---|
//! | [`resize`] | fixed-point resizing, byte for byte as Pillow does it |

pub mod resize;
