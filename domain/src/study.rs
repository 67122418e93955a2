//! The study: what an experiment is, from the spec to the table.
//!
//! | module | what it holds |
//! |---|---|
//! | [`stone`] | data sets, views, classes and the order of labels |
//! | [`paper`] | what the paper printed: Table I, drift scores, SIFID, image counts |
//! | [`experiment`] | the spec: every knob of the study and its default |
//! | [`overrides`] | presets, files and `--set key=value` folded into one spec |
//! | [`differences`] | by which knobs studies of one title differ |
//! | [`stage`] | the catalogue of stages and what a running attempt may do |
//! | [`audit`] | what the paper's numbers give away without any run |
//! | [`plan`] | the study as a graph of tasks |
//! | [`lineage`] | from which pictures each training has learnt, by that graph |
//! | [`pretrained`] | published weights that a study can start from |
//! | [`records`] | the JSON that one stage leaves for the next, and what each may hold |
//! | [`stats`] | means, spreads, tests and intervals |
//! | [`results`] | the table that people read, as data |
//! | [`system`] | the systems that draw pictures, and what a network of one learns from |
//! | [`trial`] | one point of a protocol, its split and its trainings |

pub mod audit;
pub mod differences;
pub mod experiment;
pub mod lineage;
pub mod overrides;
pub mod paper;
pub mod plan;
pub mod pretrained;
pub mod records;
pub mod results;
pub mod stage;
pub mod stats;
pub mod stone;
pub mod system;
pub mod trial;

#[cfg(test)]
mod golden;
