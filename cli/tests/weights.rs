//! `lithogen weights`, and studies that start from weights: real processes, files as
//! large as the published ones, and a server on this machine that breaks off.

#![cfg(feature = "worker")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ended {
    #[track_caller]
    fn says(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not in: {}", self.err);
        }
        self
    }

    #[track_caller]
    fn json(self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("{}\n{}", self.out, self.err))
    }
}

fn lithogen(arguments: &[&str], folder: &Path) -> Ended {
    let output = command(arguments, folder).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn command(arguments: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lithogen"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    for name in ["STATE", "COORDINATOR", "LISTEN", "LOG", "DEVICE", "BLOBS", "WEIGHTS"] {
        command.env_remove(format!("LITHOGEN_{name}"));
    }
    // Nobody is there, and nobody is to be asked about this machine.
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env(name, "http://127.0.0.1:1");
    }
    command
}

fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a server gives, and what it was asked for.
#[derive(Default)]
struct Shelf {
    content: Vec<u8>,
    etag: &'static str,
    /// The bytes that each answer breaks off after; the last for all that follow.
    cuts: Vec<usize>,
    /// Where each request wanted to begin.
    asked: Vec<Option<usize>>,
}

/// Serves one file on a port of its own.
fn serve(shelf: Shelf) -> (String, Arc<Mutex<Shelf>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/weights/", listener.local_addr().unwrap());
    let shelf = Arc::new(Mutex::new(shelf));
    let shared = shelf.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // A client may go away whenever it likes.
            let _ = answer(&stream.unwrap(), &mut shared.lock().unwrap());
        }
    });
    (url, shelf)
}

fn answer(mut stream: &TcpStream, shelf: &mut Shelf) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let (mut start, mut same) = (None, true);
    while let Some(line) = lines.next().transpose()?.filter(|line| !line.is_empty()) {
        let line = line.to_lowercase();
        if let Some(range) = line.strip_prefix("range: bytes=") {
            start = range.trim_end_matches('-').parse().ok();
        }
        if let Some(etag) = line.strip_prefix("if-range: ") {
            same = etag == shelf.etag;
        }
    }
    shelf.asked.push(start);
    let whole = shelf.content.len();
    let (status, rest) = match start.filter(|_| same) {
        Some(start) => ("206 Partial Content", &shelf.content[start..]),
        None => ("200 OK", &shelf.content[..]),
    };
    let range = format!("bytes {}-{}/{whole}", whole - rest.len(), whole - 1);
    let (length, etag) = (rest.len(), shelf.etag);
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nContent-Range: {range}\r\nETag: {etag}\r\n\r\n");
    let cut = if shelf.cuts.len() > 1 { shelf.cuts.remove(0) } else { shelf.cuts[0] };
    if cut > 0 {
        stream.write_all(head.as_bytes())?;
        stream.write_all(&rest[..cut.min(length)])?;
    }
    Ok(())
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

#[test]
fn a_download_that_is_cut_off_goes_on_where_it_was_and_is_checked() {
    let root = tempfile::tempdir().unwrap();
    let content = noise(3_000_000);
    let cuts = vec![1_000_000, 700_000, usize::MAX];
    let (url, shelf) = serve(Shelf { content: content.clone(), etag: "\"a\"", cuts, asked: vec![] });
    // It is no published file, and what is said of it proves that it arrived as it is.
    let ended = lithogen(&["weights", "fetch", "resnet50-imagenet1k-v2", "--from", &url], root.path());
    ended.says(4, &[&sha256(&content), "begins with 11ad3fa6", "Nothing of it was kept"]);
    let asked = shelf.lock().unwrap().asked.clone();
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert!(asked[0].is_none() && asked[1] > Some(0) && asked[2] > asked[1], "{asked:?}");
    let left = fs::read_dir(root.path().join("lithogen-data/weights/resnet50-imagenet1k-v2")).unwrap();
    assert_eq!(left.count(), 0);
}

#[test]
fn the_same_command_goes_on_from_what_arrived_unless_the_file_has_changed() {
    let root = tempfile::tempdir().unwrap();
    let (old, new) = (noise(2_000_000), noise(1_500_000));
    let cuts = vec![800_000, 0];
    let (url, shelf) = serve(Shelf { content: old.clone(), etag: "\"a\"", cuts, asked: vec![] });
    let fetch =
        || lithogen(&["weights", "fetch", "resnet50-imagenet1k-v1", "--from", &url, "--weights", "w"], root.path());
    fetch().says(1, &["cut off with", "goes on from there", "lithogen weights import"]);
    let part = root.path().join("w/resnet50-imagenet1k-v1/resnet50-0676ba61.pth.part");
    let here = fs::metadata(&part).unwrap().len() as usize;
    assert!((1..=800_000).contains(&here), "{here}");
    assert_eq!(fs::read(&part).unwrap(), old[..here]);
    {
        let mut shelf = shelf.lock().unwrap();
        (shelf.content, shelf.etag, shelf.cuts) = (new.clone(), "\"b\"", vec![usize::MAX]);
        shelf.asked.clear();
    }
    fetch().says(4, &[&sha256(&new)]);
    assert_eq!(shelf.lock().unwrap().asked, [Some(here)]);
}

#[test]
fn a_server_that_has_nothing_and_a_way_that_anybody_can_change_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let fetch = |from: &str| lithogen(&["weights", "fetch", "resnet50-imagenet1k-v2", "--from", from], root.path());
    fetch("http://192.0.2.1/x").says(2, &["has to begin with https://"]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/x", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            BufReader::new(&stream).lines().take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty())).count();
            let elsewhere = "HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/x\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(elsewhere.as_bytes()).unwrap();
        }
    });
    fetch(&url).says(1, &["nothing is encrypted"]);
    lithogen(&["weights", "fetch", "resnet18"], root.path())
        .says(2, &["no weights are called", "resnet50-imagenet1k-v2"]);
}

#[test]
fn a_study_without_its_weights_is_refused_before_anything_starts() {
    let root = tempfile::tempdir().unwrap();
    let ways = [
        "lithogen weights fetch resnet50-imagenet1k-v2",
        "lithogen weights import resnet50-11ad3fa6.pth",
        "--set tl.init=random",
        "--set upscale.method=lanczos",
        "--set sifid.features=random",
    ];
    lithogen(&["reproduce", "--scale", "paper"], root.path()).says(4, &ways);
    lithogen(&["submit", "--scale", "paper", "--coordinator", "http://127.0.0.1:1"], root.path()).says(4, &ways);
    let one = ["reproduce", "--scale", "smoke", "--set", "sifid.features=imagenet", "--weights", "w"];
    let told = lithogen(&one, root.path()).says(4, &["lithogen weights fetch inception-v3-imagenet1k --weights w"]).err;
    assert!(!told.contains("resnet50"), "{told}");
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0, "nothing is drawn or written");
    // A plan can be made all the same.
    let plan = lithogen(&["plan", "--scale", "paper", "--measure", "never"], root.path()).says(0, &[]).out;
    assert!(ways.iter().all(|way| plan.contains(way)), "{plan}");
    assert!(!plan.contains("differs"), "{plan}");
    let plan =
        lithogen(&["plan", "--scale", "smoke", "--set", "sifid.features=imagenet", "--json"], root.path()).json();
    assert_eq!(plan["absent_weights"], serde_json::json!(["inception-v3-imagenet1k"]));
}

/// Every tensor of ResNet50 as torchvision names it, all of the same number.
fn resnet50(path: &Path, value: f32) {
    let mut shapes = vec![("conv1.weight".to_owned(), vec![64, 3, 7, 7])];
    let norm = |shapes: &mut Vec<(String, Vec<usize>)>, name: &str, channels: usize| {
        for part in ["weight", "bias", "running_mean", "running_var"] {
            shapes.push((format!("{name}.{part}"), vec![channels]));
        }
    };
    norm(&mut shapes, "bn1", 64);
    let mut from = 64;
    for (stage, blocks) in [3, 4, 6, 3].into_iter().enumerate() {
        let inner = 64 << stage;
        for block in 0..blocks {
            let name = format!("layer{}.{block}", stage + 1);
            let mut layer = |conv: &str, bn: &str, shape: Vec<usize>| {
                norm(&mut shapes, &format!("{name}.{bn}"), shape[0]);
                shapes.push((format!("{name}.{conv}.weight"), shape));
            };
            layer("conv1", "bn1", vec![inner, from, 1, 1]);
            layer("conv2", "bn2", vec![inner, inner, 3, 3]);
            layer("conv3", "bn3", vec![4 * inner, inner, 1, 1]);
            if block == 0 {
                layer("downsample.0", "downsample.1", vec![4 * inner, from, 1, 1]);
            }
            from = 4 * inner;
        }
    }
    shapes.extend([("fc.weight".to_owned(), vec![1000, 2048]), ("fc.bias".to_owned(), vec![1000])]);
    let longest = shapes.iter().map(|(_, shape)| shape.iter().product::<usize>()).max().unwrap();
    let numbers = value.to_le_bytes().repeat(longest);
    let views = shapes.iter().map(|(name, shape)| {
        let bytes = &numbers[..4 * shape.iter().product::<usize>()];
        (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// A coordinator, ended with the test.
struct Coordinator(Child, String);

impl Coordinator {
    fn start(folder: &Path) -> Self {
        let arguments = ["coordinator", "--listen", "127.0.0.1:0", "--state", "c"];
        let child = command(&arguments, folder).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut coordinator = Self(child, String::new());
        let since = Instant::now();
        loop {
            let url = fs::read_to_string(folder.join("c/address")).unwrap_or_default();
            if url.ends_with('\n') {
                coordinator.1 = url.trim().to_owned();
                return coordinator;
            }
            assert!(since.elapsed() < Duration::from_secs(60), "the coordinator does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn weights_are_taken_in_checked_and_handed_in_with_a_study() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let weights = |arguments: &[&str]| lithogen(&[&["weights"], arguments, &["--weights", "w"]].concat(), root);
    resnet50(&root.join("r.safetensors"), 0.5);
    weights(&["import", "r.safetensors"]).says(4, &["may be resnet50-imagenet1k-v2 or resnet50-imagenet1k-v1", "--as"]);
    let v2 = ["import", "r.safetensors", "--as", "resnet50-imagenet1k-v2"];
    let taken = weights(&v2).says(0, &["267 tensors of r.safetensors", "not the published file"]);
    assert_eq!(taken.out.trim(), "w/resnet50-imagenet1k-v2");
    weights(&["verify"]).says(0, &[]);
    let listed = weights(&["list", "--json"]).json();
    let one = listed["weights"].as_array().unwrap().iter().find(|one| one["name"] == "resnet50-imagenet1k-v2").unwrap();
    assert_eq!((&one["here"], &one["licence"], &one["tensors"]), (&true.into(), &"BSD-3-Clause".into(), &267.into()));
    let bytes = fs::read(root.join("r.safetensors")).unwrap();
    assert_eq!(one["imported"]["sha256"], sha256(&bytes));
    assert_eq!(one["imported"]["published"], false);

    // Another file does not take the place of the first unnoticed, and a damaged one never.
    resnet50(&root.join("other.safetensors"), 0.25);
    let other = ["import", "other.safetensors", "--as", "resnet50-imagenet1k-v2"];
    weights(&other).says(4, &["was taken from r.safetensors before", "remove w/resnet50-imagenet1k-v2 first"]);
    fs::rename(root.join("other.safetensors"), root.join("resnet50-0676ba61.pth")).unwrap();
    weights(&["import", "resnet50-0676ba61.pth"]).says(4, &["is damaged", "begins with 0676ba61"]);
    fs::write(root.join("cut.safetensors"), &bytes[..bytes.len() / 2]).unwrap();
    weights(&["import", "cut.safetensors"]).says(4, &["cut.safetensors", "not a whole safetensors file"]);
    fs::write(root.join("empty.pth"), "").unwrap();
    weights(&["import", "empty.pth"]).says(4, &["empty.pth: the file is empty"]);

    // Rot is found, and healed by the file that it came from.
    let kept = root.join("w/resnet50-imagenet1k-v2/weights.safetensors");
    let mut rotten = fs::read(&kept).unwrap();
    *rotten.last_mut().unwrap() ^= 1;
    fs::write(&kept, rotten).unwrap();
    let verified = weights(&["verify", "--json"]).says(1, &["1 of 1 weights are not whole"]).json();
    assert_eq!(verified["weights"][0]["state"], "damaged");
    weights(&v2).says(0, &[]);
    weights(&["verify"]).says(0, &[]);

    // The study carries them along, by digest, and says that they are not the published ones.
    let sets = ["tl.init=imagenet", "tl.network.stem=imagenet", "tl.network.width=64", "tl.network.blocks=[3,4,6,3]"];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    let study = [&["--scale", "smoke", "--weights", "w"], &sets[..]].concat();
    lithogen(&["dataset", "phantom", "--scale", "smoke", "--out", "data"], root).says(0, &[]);
    let planned = |more: &[&str]| {
        lithogen(&[&["plan", "--measure", "never", "--data", "data"], more, &study].concat(), root).says(0, &[])
    };
    assert!(planned(&[]).out.contains("differs  the weights resnet50-imagenet1k-v2 are not those"));
    let plan = planned(&["--json"]).json();
    assert_eq!(plan["absent_weights"], serde_json::json!([]));
    let coordinator = Coordinator::start(root);
    let submit = ["submit", "--data", "data", "--coordinator", &coordinator.1];
    let run = lithogen(&[&submit[..], &study].concat(), root).says(0, &[]).out;
    assert_eq!(run.trim(), plan["run_id"]);
}
