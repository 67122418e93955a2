//! What an experiment is and how it moves. Pure: no I/O, no clock, no threads
//! and no randomness, so that the same calls give the same answers anywhere.
//!
//! | module | what it holds |
//! |---|---|
//! | [`digest`] | blake3 digests: names of files, artifacts and tasks |
//! | [`id`] | names of tasks, runs and artifacts |
//! | [`seed`] | named random streams: a pure function of (seed, purpose, step) |
//! | [`stone`] | data sets, views, classes and the order of labels |
//! | [`paper`] | what the paper printed: Table I, drift scores, SIFID, image counts |
//! | [`experiment`] | the spec: every knob of the study and its default |
//! | [`overrides`] | presets, files and `--set key=value` folded into one spec |
//! | [`differences`] | by which knobs studies of one title differ |
//! | [`stage`] | the catalogue of stages and what a running attempt may do |
//! | [`audit`] | what the paper's numbers give away without any run |
//! | [`artifact`] | immutable outputs: manifests of files by digest |
//! | [`plan`] | the study as a graph of tasks |
//! | [`lineage`] | from which pictures each training has learnt, by that graph |
//! | [`pretrained`] | published weights that a study can start from |
//! | [`command`] | any program as a task |
//! | [`work`] | what was submitted as a run: a study, or commands |
//! | [`resources`] | what a task needs, what a worker offers, whether they fit |
//! | [`task`] | one task's life: states, leases, failures |
//! | [`scheduler`] | `decide` and `apply`: which events follow from a request |
//! | [`records`] | the JSON that one stage leaves for the next, and what each may hold |
//! | [`registry`] | join tokens and identities: who may speak, as `decide` and `apply` |
//! | [`event`] | what the journal holds |
//! | [`stats`] | means, spreads, tests and intervals |
//! | [`results`] | the table that people read, as data |
//! | [`system`] | the systems that draw pictures, and what a network of one learns from |
//! | [`trial`] | one point of a protocol, its split and its trainings |
//! | [`text`] | text of others, kept to a length |

pub mod artifact;
pub mod audit;
pub mod command;
pub mod differences;
pub mod digest;
pub mod event;
pub mod experiment;
pub mod id;
pub mod lineage;
pub mod overrides;
pub mod paper;
pub mod plan;
pub mod pretrained;
pub mod records;
pub mod registry;
pub mod resources;
pub mod results;
pub mod scheduler;
pub mod seed;
pub mod stage;
pub mod stats;
pub mod stone;
pub mod system;
pub mod task;
pub mod text;
pub mod trial;
pub mod work;

#[cfg(test)]
mod golden;
