//! Inputs that were valid once. Each execution takes one of a corpus and alters it in
//! a few places; what has an outcome that was not seen before joins the corpus, so that
//! alterations add up. Everything follows from one seed.
//!
//! What a target must not do: panic, hold more memory than its bound, or take longer
//! than a second of a processor's time.
//!
//! `LITHOGEN_FUZZ_EXECUTIONS` sets how many inputs each target is given, and
//! `LITHOGEN_FUZZ_SEED` which. An input that fails is left in the system's folder for
//! temporary files, under the name that the message says.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use peak_alloc::PeakAlloc;

use crate::dice::Dice;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Memory is that of the whole process: one execution at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Longest that an input becomes, bytes.
const LENGTH_MAX: usize = 1 << 16;

/// Most inputs of a corpus.
const CORPUS_MAX: usize = 2048;

/// Most outcomes that are told apart: some repeat the input.
const OUTCOMES_MAX: usize = 1 << 16;

/// Longest that an execution may take.
const TIME_MAX: Duration = Duration::from_secs(1);

/// Numbers at which something ends.
const NUMBERS: [u64; 16] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// The same as text, and what is no number.
const TEXTS: [&str; 14] = [
    "0",
    "-1",
    "1e308",
    "1e999",
    "nan",
    "null",
    "4294967296",
    "18446744073709551615",
    "0.0",
    "-0.0",
    "[]",
    "{}",
    "true",
    "\"\"",
];

/// What takes bytes.
pub(crate) struct Target<'a> {
    /// For messages.
    pub(crate) name: &'a str,
    /// Executions, unless the environment says otherwise.
    pub(crate) executions: u64,
    /// Memory that one execution may hold, bytes.
    pub(crate) memory: usize,
    /// Valid inputs.
    pub(crate) corpus: Vec<Vec<u8>>,
    /// Words that mean something in them.
    pub(crate) words: Vec<String>,
}

/// What something gives, and the bytes that it held at most.
pub(crate) fn with_peak<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let held = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let given = run();
    (given, MEMORY.peak_usage().saturating_sub(held))
}

impl Target<'_> {
    /// Executes the target on inputs made from its corpus. `execute` says what came of
    /// one: what is said for the first time is kept.
    pub(crate) fn run(self, execute: impl Fn(&[u8]) -> String) {
        let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
        let executions = number("LITHOGEN_FUZZ_EXECUTIONS", self.executions);
        let mut dice = Dice::new(number("LITHOGEN_FUZZ_SEED", 1));
        let (mut corpus, mut seen, begun) = (self.corpus.clone(), BTreeSet::new(), Instant::now());
        for input in &self.corpus {
            seen.insert(self.outcome(input, &execute));
        }
        for _ in 0..executions {
            let input = mutated(&corpus, &self.words, &mut dice);
            let outcome = self.outcome(&input, &execute);
            if seen.len() < OUTCOMES_MAX && seen.insert(outcome) && corpus.len() < CORPUS_MAX {
                corpus.push(input);
            }
        }
        println!("{}: {executions} executions in {:?}, {} outcomes", self.name, begun.elapsed(), seen.len());
    }

    /// What kind of thing came of an input.
    fn outcome(&self, input: &[u8], execute: impl Fn(&[u8]) -> String) -> String {
        let once = || catch_unwind(AssertUnwindSafe(|| execute(input)));
        let begun = Instant::now();
        let (said, peak) = with_peak(once);
        let took = begun.elapsed();
        let Ok(said) = said else { self.fail(input, "panics") };
        if peak > self.memory {
            self.fail(input, &format!("holds {peak} bytes at once, more than {}", self.memory));
        }
        // Another process may have had the processor.
        if took > TIME_MAX {
            let before = processor_time();
            let _ = once();
            let took = processor_time() - before;
            if took > TIME_MAX {
                self.fail(input, &format!("takes {took:?}"));
            }
        }
        kind(&said)
    }

    fn fail(&self, input: &[u8], problem: &str) -> ! {
        let path = std::env::temp_dir().join(format!("lithogen-fuzz-{}-{}", self.name, std::process::id()));
        std::fs::write(&path, input).unwrap();
        let text: String = String::from_utf8_lossy(input).chars().take(2000).collect();
        panic!("{} {problem} on {}: {text}", self.name, path.display());
    }
}

/// A message without numbers and without what it repeats of the input, between quotes.
fn kind(said: &str) -> String {
    let own = said.split(['"', '`', '\'']).step_by(2).flat_map(str::chars);
    own.filter(|c| !c.is_ascii_digit()).take(80).collect()
}

/// What this thread has had of a processor.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

fn pick<'a, T>(from: &'a [T], dice: &mut Dice) -> &'a T {
    &from[dice.below(from.len() as u64) as usize]
}

/// One of the corpus with a few alterations.
fn mutated(corpus: &[Vec<u8>], words: &[String], dice: &mut Dice) -> Vec<u8> {
    let mut input = pick(corpus, dice).clone();
    for _ in 0..=dice.below(5) {
        alter(&mut input, corpus, words, dice);
        input.truncate(LENGTH_MAX);
    }
    input
}

fn alter(input: &mut Vec<u8>, corpus: &[Vec<u8>], words: &[String], dice: &mut Dice) {
    let place = |input: &[u8], dice: &mut Dice| dice.below(input.len() as u64 + 1) as usize;
    let (a, b) = (place(input, dice), place(input, dice));
    let (from, to) = (a.min(b), a.max(b));
    let near = (from + dice.below(9) as usize).min(input.len());
    match dice.below(11) {
        0 => input.get_mut(from).into_iter().for_each(|byte| *byte ^= 1 << dice.below(8)),
        1 => input.get_mut(from).into_iter().for_each(|byte| *byte = dice.below(256) as u8),
        2 => drop(input.drain(from..near)),
        3 if dice.one_in(4) => input.truncate(from),
        3 => drop(input.drain(from..to)),
        // A piece twice.
        4 => drop(input.splice(to..to, input[from..to].to_vec())),
        // A piece of another.
        5 => {
            let other = pick(corpus, dice);
            let (a, b) = (place(other, dice), place(other, dice));
            input.splice(from..near, other[a.min(b)..a.max(b)].iter().copied());
        }
        6 => overwrite(input, from, dice),
        // Where a number stands, or where none does.
        7 | 8 => {
            let digits = number_near(input, from).unwrap_or(from..near);
            input.splice(digits, pick(&TEXTS, dice).bytes());
        }
        9 if !words.is_empty() => drop(input.splice(from..near, pick(words, dice).bytes())),
        _ => drop(input.splice(from..near, (0..dice.below(9)).map(|_| dice.below(256) as u8).collect::<Vec<_>>())),
    }
}

/// A number of one to eight bytes, in either order, or as a varint.
fn overwrite(input: &mut Vec<u8>, from: usize, dice: &mut Dice) {
    let number = *pick(&NUMBERS, dice);
    let width = 1 << dice.below(4);
    let bytes = match dice.below(3) {
        0 => number.to_le_bytes()[..width].to_vec(),
        1 => number.to_be_bytes()[8 - width..].to_vec(),
        _ => {
            let groups = (64 - number.leading_zeros()).div_ceil(7).max(1);
            (0..groups)
                .map(|group| (number >> (7 * group)) as u8 & 0x7f | if group + 1 < groups { 0x80 } else { 0 })
                .collect()
        }
    };
    let to = (from + bytes.len()).min(input.len());
    input.splice(from..to, bytes);
}

/// The digits that follow next.
fn number_near(input: &[u8], from: usize) -> Option<std::ops::Range<usize>> {
    let start = from + input[from..].iter().position(u8::is_ascii_digit)?;
    let length = input[start..].iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'.').count();
    Some(start..start + length)
}
