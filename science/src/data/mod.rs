//! Pictures: reading, resizing, masks, contact sheets and stand-ins.
//!
//! | module | what it holds |
//! |---|---|
//! | [`picture`] | files to 8-bit RGB and back, contact sheets |
//! | [`canvas`] | what a diffusion model is shown, and what its samples are compared with |
//! | [`compared`] | the real and the synthetic pictures that evaluations compare |
//! | [`folder`] | the numbered pictures of an artifact |
//! | [`packed`] | patches with their labels, written to a file |
//! | [`patchset`] | patches with their labels, batch by batch |
//! | [`augment`] | how training patches are varied |
//! | [`blur`] | Gaussian blur |
//! | [`pyramid`] | pictures at several scales |
//! | [`tensors`] | pictures as tensors and back |
//! | [`quality`] | how near an enlarged picture is to the true one |
//! | [`resize`] | fixed-point resizing, byte for byte as Pillow does it |
//! | [`foreground`] | where the stone is |
//! | [`gate`] | whether a sample shows one central object, as real pictures do |
//! | [`phantom`] | procedural stones that stand in for the data sets |
//! | [`split`] | training and test sides, by image |
//! | [`windows`] | places for patches in one picture |
//! | [`checkup`] | pictures before a study: sizes, modes, which look alike |
//! | [`batch`] | the same work on many pictures, in parallel and bounded memory |

pub mod augment;
pub mod batch;
pub mod blur;
pub mod canvas;
pub mod checkup;
pub mod compared;
pub mod folder;
pub mod foreground;
pub mod gate;
pub mod packed;
pub mod patchset;
pub mod phantom;
pub mod picture;
pub mod pyramid;
pub mod quality;
pub mod resize;
pub mod split;
pub mod tensors;
pub mod windows;
