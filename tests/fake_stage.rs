//! A stage that computes nothing: it reads its order as `lithogen attempt` does,
//! misbehaves as its environment tells it, and writes files that follow from
//! the order and the inputs alone.
//!
//! | variable | what it does |
//! |---|---|
//! | `FAKE_ONLY` | the name of the stage that the others are about; all stages without it |
//! | `FAKE_GATE` | waits until a file with this name exists |
//! | `FAKE_CRASH` | says this on standard error and dies |
//! | `FAKE_HUNGRY` | asks for more memory than there is |
//! | `FAKE_KILLED` | dies as one dies that the kernel kills |
//! | `FAKE_DEAF` | at the gate, goes on talking whatever it is told |
//! | `FAKE_SAYS` | says this line on standard output when it comes to the gate |
//! | `FAKE_STOPPED` | a folder: leaves a file there when it is told to stop |

use std::path::{Path, PathBuf};
use std::process::exit;
use std::time::Duration;

use domain::digest::Digest;
use domain::study::stage::{Folder, Monitor, Progress};
use worker::child::protocol::{ORDER, Order};
use worker::child::speaker::Speaker;
use worker::reaper::GUARD;

/// How often a waiting stage looks again.
const LOOK: Duration = Duration::from_millis(5);

fn main() {
    let folder = PathBuf::from(std::env::args_os().nth(1).expect("the attempt's folder"));
    if folder == Path::new(GUARD) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        return runtime.block_on(worker::reaper::run()).expect("to watch");
    }
    let text = std::fs::read(folder.join(ORDER)).expect("an order");
    let order = Order::read(&folder).expect("an order that decodes");
    let mut speaker = Speaker::start();
    if std::env::var("FAKE_ONLY").is_ok_and(|only| only != order.stage.kind().name()) {
        return write(&folder, &text);
    }
    if let Ok(gate) = std::env::var("FAKE_GATE") {
        let progress = |note: &str| Progress { done: 1, total: 2, note: note.to_owned(), ..Progress::default() };
        speaker.progress(progress("at the gate"));
        if let Ok(line) = std::env::var("FAKE_SAYS") {
            println!("{line}");
        }
        let deaf = std::env::var_os("FAKE_DEAF").is_some();
        while !Path::new(&gate).exists() {
            if deaf {
                speaker.progress(progress("still talking"));
            } else if speaker.stopping() {
                if let Ok(folder) = std::env::var("FAKE_STOPPED") {
                    let name = format!("{}-{}", order.stage.kind().name(), std::process::id());
                    std::fs::write(Path::new(&folder).join(name), "").expect("to say that it was stopped");
                }
                exit(130);
            }
            std::thread::sleep(LOOK);
        }
    }
    if let Ok(last_words) = std::env::var("FAKE_CRASH") {
        eprintln!("{last_words}");
        exit(101);
    }
    if std::env::var_os("FAKE_HUNGRY").is_some() {
        std::hint::black_box(Vec::<u8>::with_capacity(std::hint::black_box(isize::MAX as usize)));
    }
    if std::env::var_os("FAKE_KILLED").is_some() {
        let own = std::process::id().to_string();
        std::process::Command::new("kill").args(["-KILL", &own]).status().expect("to kill itself");
    }
    write(&folder, &text);
}

fn write(folder: &Path, order: &[u8]) {
    let folder = Folder::new(folder);
    let inputs = folder.root().join("inputs");
    let mut names: Vec<String> = std::fs::read_dir(inputs)
        .map(|names| names.filter_map(|name| name.ok()?.file_name().into_string().ok()).collect())
        .unwrap_or_default();
    names.sort();
    let text = format!("{} {}\n", Digest::of(order), names.join(" "));
    std::fs::write(folder.output("made.txt"), text).expect("to write a file");
}
