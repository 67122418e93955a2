use std::io::{Cursor, Write};
use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;
use zip::CompressionMethod;
use zip::write::{SimpleFileOptions, ZipWriter};

use super::*;

/// A checkpoint as `torch.save` writes one, with the tensors under a key if one is named.
#[derive(Clone)]
struct Checkpoint {
    key: Option<&'static str>,
    tensors: Arrays,
    /// The opcodes of a key and a value that stand in the dictionary besides the tensors.
    more: &'static [u8],
    packed: bool,
}

impl Checkpoint {
    fn new(tensors: Arrays) -> Self {
        Self { key: None, tensors, more: b"", packed: false }
    }

    fn bytes(&self) -> Vec<u8> {
        let text = |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
        let tuple = |values: &[usize]| {
            let numbers = values.iter().flat_map(|value| [&b"J"[..], &(*value as u32).to_le_bytes()].concat());
            [&b"("[..], &numbers.collect::<Vec<u8>>(), b"t"].concat()
        };
        let mut pickle = b"\x80\x02".to_vec();
        if let Some(key) = self.key {
            pickle.extend([&b"}("[..], &text(key)].concat());
        }
        pickle.extend(b"}(");
        for (number, (name, array)) in self.tensors.iter().enumerate() {
            let strides: Vec<usize> =
                (0..array.shape.len()).map(|axis| array.shape[axis + 1..].iter().product()).collect();
            pickle.extend(text(name));
            pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
            pickle.extend(text("storage"));
            pickle.extend(b"ctorch\nFloatStorage\n");
            pickle.extend([text(&number.to_string()), text("cpu")].concat());
            pickle.extend([&b"J"[..], &(array.values.len() as u32).to_le_bytes(), b"tQK\0"].concat());
            pickle.extend([tuple(&array.shape), tuple(&strides)].concat());
            pickle.extend(b"\x89ccollections\nOrderedDict\n)RtR");
        }
        pickle.extend(self.more);
        pickle.extend(if self.key.is_some() { &b"uu."[..] } else { b"u." });
        let mut file = ZipWriter::new(Cursor::new(Vec::new()));
        let method = if self.packed { CompressionMethod::Deflated } else { CompressionMethod::Stored };
        let mut add = |name: &str, content: &[u8]| {
            file.start_file(name, SimpleFileOptions::default().compression_method(method)).unwrap();
            file.write_all(content).unwrap();
        };
        add("archive/data.pkl", &pickle);
        for (number, array) in self.tensors.values().enumerate() {
            let bytes: Vec<u8> = array.values.iter().flat_map(|value| value.to_le_bytes()).collect();
            add(&format!("archive/data/{number}"), &bytes);
        }
        file.finish().unwrap().into_inner()
    }
}

fn put(folder: &TempDir, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join("file.pth");
    fs::write(&path, bytes).unwrap();
    path
}

fn array(shape: &[usize]) -> Array {
    Array { shape: shape.to_vec(), values: (0..shape.iter().product()).map(|at| at as f32).collect() }
}

fn few() -> Arrays {
    Arrays::from([("a.weight".to_owned(), array(&[2, 3])), ("b".to_owned(), array(&[4]))])
}

/// Zeros for every tensor of a network.
fn blank(which: Pretrained) -> Arrays {
    let zeros = |shape: Vec<usize>| Array { values: vec![0.0; shape.iter().product()], shape };
    target(which).shapes.into_iter().map(|(name, shape)| (name, zeros(shape))).collect()
}

fn refusal<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
    let message = result.unwrap_err().message;
    assert!(message.contains("file.pth"), "{message}");
    message
}

#[test]
fn the_catalogue_counts_what_the_networks_have() {
    for which in Pretrained::ALL {
        let (entry, shapes) = (which.entry(), target(which).shapes);
        let learnt = shapes.iter().filter(|(name, _)| !name.contains("running_"));
        let parameters: usize = learnt.map(|(_, shape)| shape.iter().product::<usize>()).sum();
        assert_eq!((shapes.len() as u32, parameters as u64), (entry.tensors, entry.parameters), "{which}");
    }
}

#[test]
fn both_formats_and_every_place_in_a_checkpoint_hold_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let mut with_counter = few();
    with_counter.insert("bn.num_batches_tracked".to_owned(), array(&[]));
    let flat = Checkpoint::new(with_counter);
    let under = |key| Checkpoint { key: Some(key), ..flat.clone() };
    for checkpoint in [flat.clone(), under("params"), under("params_ema"), under("state_dict")] {
        assert_eq!(arrays(&put(&folder, &checkpoint.bytes())).unwrap(), few());
    }
    let safe = safetensors::serialize(&few(), None).unwrap();
    assert_eq!(arrays(&put(&folder, &safe)).unwrap(), few());
}

#[test]
fn resnet50_is_recognised_and_every_difference_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let which = Pretrained::Resnet50V2;
    let whole = blank(which);
    let path = folder.path().join("file.pth");
    weights::write(&whole, &path).unwrap();
    assert_eq!(candidates(&path).unwrap(), [which, Pretrained::Resnet50V1]);
    assert!(read(which, &path).unwrap() == whole);
    let shapes = target(which).shapes;
    let refused = |change: fn(&mut Arrays)| {
        let mut arrays = whole.clone();
        change(&mut arrays);
        weights::check(&arrays, &shapes).unwrap_err().message
    };
    assert_eq!(refused(|arrays| drop(arrays.remove("bn1.running_var"))), "tensor bn1.running_var is missing");
    let renamed = refused(|arrays| {
        let array = arrays.remove("layer3.0.conv1.weight").unwrap();
        arrays.insert("layer3.0.conv1_weight".to_owned(), array);
    });
    assert_eq!(renamed, "tensor layer3.0.conv1.weight is missing");
    let more = refused(|arrays| drop(arrays.insert("z".to_owned(), array(&[1]))));
    assert_eq!(more, "tensor z does not belong to this network");
    let more = refused(|arrays| drop(arrays.insert("a".to_owned(), array(&[1]))));
    assert_eq!(more, "tensor a does not belong to this network");
    let transposed = refused(|arrays| arrays.get_mut("fc.weight").unwrap().shape.reverse());
    assert_eq!(transposed, "tensor fc.weight has shape [2048, 1000], has to be [1000, 2048]");
    // What is not a number would only show after hours.
    let mut broken = whole.clone();
    broken.get_mut("conv1.weight").unwrap().values[7] = f32::NAN;
    weights::write(&broken, &path).unwrap();
    assert!(refusal(read(which, &path)).contains("tensor conv1.weight holds what is not a number"));
}

#[test]
fn other_networks_are_recognised_by_their_names() {
    let of = |names: &[(&str, &[usize])]| {
        candidates_of(&names.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect())
    };
    let inception = ("Mixed_7c.branch_pool.conv.weight", &[192, 2048, 1, 1][..]);
    assert_eq!(of(&[inception, ("fc.weight", &[1000, 2048])]), [Pretrained::InceptionV3]);
    assert_eq!(of(&[inception, ("fc.weight", &[1008, 2048])]), [Pretrained::InceptionFid]);
    let (official, port) = (("conv_first.weight", &[1][..]), ("swin2sr.first_convolution.weight", &[1][..]));
    assert_eq!(of(&[official]), [Pretrained::Swin2srClassical]);
    assert_eq!(of(&[official, ("conv_up1.weight", &[1])]), [Pretrained::Swin2srRealworld]);
    assert_eq!(of(&[port, ("upsample.conv_bicubic.weight", &[1])]), [Pretrained::Swin2srCompressed]);
    assert_eq!(of(&[("x", &[1])]), []);
}

#[test]
fn a_checkpoint_with_code_is_refused_and_nothing_of_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let witness = folder.path().join("ran");
    let command = format!("touch {}", witness.display());
    let evil = [
        &b"X\x04\0\0\0evilcposix\nsystem\n(X"[..],
        &(command.len() as u32).to_le_bytes()[..],
        command.as_bytes(),
        &b"tR"[..],
    ];
    let checkpoint = Checkpoint { more: Vec::leak(evil.concat()), ..Checkpoint::new(few()) };
    let message = refusal(arrays(&put(&folder, &checkpoint.bytes())));
    assert!(message.contains("holds posix.system, which is code to be run"), "{message}");
    assert!(!witness.exists());
}

#[test]
fn a_file_that_unpacks_to_more_than_it_explains_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let zeros = Array { shape: vec![4 << 20], values: vec![0.0; 4 << 20] };
    let bomb = Checkpoint { packed: true, ..Checkpoint::new(Arrays::from([("a".to_owned(), zeros)])) };
    let message = refusal(arrays(&put(&folder, &bomb.bytes())));
    assert!(message.contains("unpacks to 1677") && message.contains("as no checkpoint does"), "{message}");
}

#[test]
fn an_absurd_shape_is_refused_before_anything_is_made_room_for() {
    let folder = tempfile::tempdir().unwrap();
    let absurd =
        |shape: Vec<usize>| Checkpoint::new(Arrays::from([("a".to_owned(), Array { shape, values: vec![0.5] })]));
    // Beyond its storage, and beyond what can be counted.
    refusal(arrays(&put(&folder, &absurd(vec![1 << 30, 1 << 30]).bytes())));
    refusal(arrays(&put(&folder, &absurd(vec![1 << 31; 4]).bytes())));
    // One number spread over a thousand million places by a stride of zero.
    let mut spread = absurd(vec![1 << 30]).bytes();
    let stride = b"J\x01\0\0\0t\x89ccollections";
    let place = spread.windows(stride.len()).position(|window| window == stride).unwrap();
    spread[place + 1] = 0;
    // The checksum of the archive is of no help to whoever means harm; leave it out here too.
    let header = spread.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    for crc in [14..18, header + 16..header + 20] {
        spread[crc].fill(0);
    }
    let message = refusal(arrays(&put(&folder, &spread)));
    assert!(message.contains("tensor a of shape [1073741824]"), "{message}");
}

#[test]
fn empty_cut_off_and_foreign_files_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    assert!(refusal(arrays(&put(&folder, b""))).contains("the file is empty"));
    assert!(refusal(arrays(&put(&folder, b"<!DOCTYPE html><title>404</title>"))).contains("no checkpoint of PyTorch"));
    let whole = Checkpoint::new(few()).bytes();
    for end in [4, 60, whole.len() / 2, whole.len() - 10] {
        refusal(arrays(&put(&folder, &whole[..end])));
    }
    let safe = safetensors::serialize(&few(), None).unwrap();
    for end in [9, 40, safe.len() - 1] {
        assert!(refusal(arrays(&put(&folder, &safe[..end]))).contains("not a whole safetensors file"));
    }
    let view = safetensors::tensor::TensorView::new(Dtype::F16, vec![2], &[0; 4]).unwrap();
    let half = safetensors::serialize([("a", view)], None).unwrap();
    assert!(refusal(arrays(&put(&folder, &half))).contains("tensor a is of type F16"));
    assert_eq!(arrays(&folder.path().join("nowhere")).unwrap_err().code, domain::study::stage::FailureCode::Storage);
}

#[test]
fn a_header_that_claims_more_than_there_is_allocates_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let header = |json: &str| [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat();
    let exbibytes = 4u64 << 60;
    let tensor = format!(r#"{{"a":{{"dtype":"F32","shape":[{}],"data_offsets":[0,{exbibytes}]}}}}"#, exbibytes / 4);
    refusal(arrays(&put(&folder, &header(&tensor))));
    let overflow = r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,0]}}"#;
    refusal(arrays(&put(&folder, &header(overflow))));
    let mut long = header(&" ".repeat(200));
    long[..8].copy_from_slice(&exbibytes.to_le_bytes());
    long[8] = b'{';
    refusal(arrays(&put(&folder, &long)));
}

/// Checks that a file gives tensors or an error, whatever it holds.
fn ends(bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = put(&folder, bytes);
    let held = |arrays: Arrays| arrays.values().map(|array| array.values.len()).sum::<usize>();
    if let Ok(numbers) = arrays(&path).map(held) {
        assert!(numbers <= 4 * bytes.len() + (1 << 20));
    }
    let _ = candidates(&path);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_or_refused(head in 0..6usize, rest in prop::collection::vec(any::<u8>(), 0..400)) {
        let heads: [&[u8]; 6] = [b"", b"PK\x03\x04", b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.",
            b"\x40\0\0\0\0\0\0\0{", b"\x80\x04", b"PK\x05\x06"];
        ends(&[heads[head], &rest].concat());
    }

    #[test]
    fn a_damaged_file_is_read_or_refused(
        kind in 0..4usize,
        place in any::<prop::sample::Index>(),
        removed in 0..9usize,
        added in prop::collection::vec(any::<u8>(), 0..9),
    ) {
        let checkpoint = Checkpoint { key: Some("params"), packed: kind == 1, ..Checkpoint::new(few()) };
        let mut bytes = match kind {
            0 | 1 => checkpoint.bytes(),
            2 => safetensors::serialize(&few(), None).unwrap(),
            _ => old(&few()),
        };
        let from = place.index(bytes.len());
        let to = (from + removed).min(bytes.len());
        bytes.splice(from..to, added);
        ends(&bytes);
    }
}

/// A checkpoint as PyTorch wrote it before 1.6: five pickles, then the storages.
fn old(tensors: &Arrays) -> Vec<u8> {
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.";
    let machine = b"\x80\x02}(X\x0d\0\0\0little_endian\x88u.";
    let text = |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let (mut pickle, mut keys, mut data) = (b"\x80\x02}(".to_vec(), b"\x80\x02](".to_vec(), vec![]);
    for (number, (name, array)) in tensors.iter().enumerate() {
        let length = array.values.len() as u32;
        pickle.extend(text(name));
        pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        pickle.extend(
            [text("storage"), b"ctorch\nFloatStorage\n".to_vec(), text(&number.to_string()), text("cpu")].concat(),
        );
        pickle.extend([&b"J"[..], &length.to_le_bytes(), b"NtQK\0(J"].concat());
        pickle.extend([&length.to_le_bytes()[..], b"t(K\x01t\x89ccollections\nOrderedDict\n)RtR"].concat());
        keys.extend(text(&number.to_string()));
        data.extend(u64::from(length).to_le_bytes());
        data.extend(array.values.iter().flat_map(|value| value.to_le_bytes()));
    }
    [&magic[..], machine, &pickle, b"u.", &keys, b"e.", &data].concat()
}

#[test]
fn checkpoints_of_before_2020_are_read_too() {
    let folder = tempfile::tempdir().unwrap();
    let row = Arrays::from([("b".to_owned(), array(&[4])), ("c".to_owned(), array(&[2]))]);
    assert_eq!(arrays(&put(&folder, &old(&row))).unwrap(), row);
}
