//! A data set of pictures on this machine.
//!
//! | module | what it holds |
//! |---|---|
//! | [`folders`] | the class folders, as a person lays them out |
//! | [`stones`] | which stone each picture is of |
//! | `checkup` | a data set looked at before a study meets it |
//! | `preview` | its patches, cut here |

#[cfg(feature = "worker")]
pub mod checkup;
pub mod folders;
#[cfg(feature = "worker")]
pub mod preview;
pub mod stones;
