//! Looks through a PyTorch file before it is opened: whether it holds data and
//! nothing else, and no more of them than the file has bytes.
//!
//! A pickle is a program for a stack machine, and Python runs what it names.
//! Nothing here runs anything, so code would do no harm; but a file that holds
//! some is not what it is said to be, and is refused as a whole.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::Path;
use std::rc::Rc;

use domain::study::stage::Failure;
use zip::ZipArchive;

/// The largest file that is looked at: the largest published one has a tenth of it.
pub(crate) const FILE_MAX: u64 = 1 << 30;

/// The largest pickle that is looked through. The tensors are not in it: those of a thousand
/// tensors take a tenth of a megabyte.
const PICKLE_MAX: u64 = 16 << 20;

/// The largest number of instructions of a pickle, and of values that it notes for later: each
/// makes room for one value. Those of a thousand tensors are a tenth of that.
const INSTRUCTIONS_MAX: u64 = 1 << 20;

/// The largest size that the parts of a file may unpack to, as a multiple of its own. PyTorch
/// packs nothing, and weights do not pack well.
const EXPANSION_MAX: u64 = 4;

/// The number of bytes that may be unpacked of the smallest file.
const ROOM: u64 = 1 << 20;

/// The longest name of a class, or of anything else that may become one.
const NAME_MAX: u64 = 256;

/// The number that files of PyTorch before 1.6 begin with, in both ways of writing it.
const OLD_MAGIC: [&[u8]; 2] = [b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", b"119547037146038801333356"];

/// Pickles at the beginning of such a file: that number, a version, the machine,
/// the tensors, and the keys of their storages.
const OLD_PICKLES: usize = 5;

/// Bytes that the tensors of a file of that size may have together.
pub(super) fn room(bytes: u64) -> u64 {
    bytes.saturating_mul(EXPANSION_MAX).saturating_add(ROOM)
}

/// Refuses a file that cannot be a checkpoint, holds code, or unpacks to more
/// than its size explains. Returns its size.
///
/// # Errors
/// `InvalidInput` with what is wrong, `Storage` if the file cannot be read.
pub(super) fn check(path: &Path) -> Result<u64, Failure> {
    let unread = |error: &io::Error| Failure::io("read", path, error);
    let refuse = |problem: String| Failure::invalid_input(format!("{}: {problem}", path.display()));
    let mut file = File::open(path).map_err(|error| unread(&error))?;
    let bytes = file.metadata().map_err(|error| unread(&error))?.len();
    if bytes > FILE_MAX {
        return Err(refuse(format!("has {bytes} bytes, more than any checkpoint that is read here")));
    }
    let mut head = Vec::new();
    (&mut file).take(64).read_to_end(&mut head).map_err(|error| unread(&error))?;
    file.rewind().map_err(|error| unread(&error))?;
    if head.is_empty() {
        return Err(refuse("the file is empty".to_owned()));
    }
    let is_old = OLD_MAGIC.iter().any(|magic| head.windows(magic.len()).any(|window| window == *magic));
    let looked = if head.starts_with(b"PK\x03\x04") {
        archive(file, bytes)
    } else if is_old {
        let mut reader = BufReader::new(file).take(bytes);
        (0..OLD_PICKLES).try_for_each(|_| pickle(&mut reader))
    } else {
        Err("this is no checkpoint of PyTorch, or not its beginning".to_owned())
    };
    looked.map(|()| bytes).map_err(refuse)
}

/// Looks at all entries by their declared size, and the pickles among them by content.
fn archive(file: File, bytes: u64) -> Result<(), String> {
    let mut parts = ZipArchive::new(BufReader::new(file))
        .map_err(|error| format!("the archive cannot be opened ({error}); was the download cut off?"))?;
    let mut unpacked = 0u64;
    let mut pickles = Vec::new();
    for number in 0..parts.len() {
        let entry = parts.by_index_raw(number).map_err(|error| format!("entry {number}: {error}"))?;
        unpacked = unpacked.saturating_add(entry.size());
        let name = entry.name().map_err(|error| format!("entry {number}: {error}"))?;
        if name.ends_with("data.pkl") {
            pickles.push(number);
        }
    }
    if unpacked > room(bytes) {
        return Err(format!("unpacks to {unpacked} bytes and has only {bytes}, as no checkpoint does"));
    }
    for number in pickles {
        let mut entry = BufReader::new(parts.by_index(number).map_err(|error| format!("entry {number}: {error}"))?)
            .take(PICKLE_MAX);
        pickle(&mut entry)?;
    }
    Ok(())
}

/// A value at the top of the stack, as far as it can become a name.
type Word = Option<Rc<str>>;

/// Goes through one pickle, whose instructions it skips, and refuses the first
/// name that is none of data.
fn pickle(reader: &mut impl BufRead) -> Result<(), String> {
    // The last two values, which a name may be put together of, and what was noted for later.
    let mut top: [Word; 2] = [None, None];
    let mut notes: HashMap<u64, Word> = HashMap::new();
    let mut noted = 0u64;
    for _ in 0..INSTRUCTIONS_MAX {
        let mut word: Word = None;
        match byte(reader)? {
            b'.' => return Ok(()),
            b'c' | b'i' => {
                let (module, name) = (line(reader)?, line(reader)?);
                allow(&module, &name)?;
            }
            0x93 => match &top {
                [Some(module), Some(name)] => allow(module, name)?,
                _ => return Err("names a class in a roundabout way".to_owned()),
            },
            b'V' => word = Some(line(reader)?.into()),
            b'U' | 0x8c => word = text(reader, 1)?,
            b'T' | b'X' => word = text(reader, 4)?,
            0x8d => word = text(reader, 8)?,
            b'C' | 0x8a => skip(reader, 1)?,
            b'B' | 0x8b => skip(reader, 4)?,
            0x8e | 0x96 => skip(reader, 8)?,
            b'I' | b'L' | b'F' | b'S' | b'P' => line(reader).map(|_| ())?,
            b'K' | 0x80 | 0x82 => pass(reader, 1)?,
            b'M' | 0x83 => pass(reader, 2)?,
            b'J' | 0x84 => pass(reader, 4)?,
            b'G' | 0x95 => pass(reader, 8)?,
            note @ (b'p' | b'q' | b'r' | 0x94) => {
                let place = match note {
                    b'p' => parse(&line(reader)?)?,
                    b'q' => number(reader, 1)?,
                    b'r' => number(reader, 4)?,
                    _ => noted,
                };
                noted += 1;
                notes.insert(place, top[1].clone());
                continue; // the stack stays as it is
            }
            get @ (b'g' | b'h' | b'j') => {
                let place = match get {
                    b'g' => parse(&line(reader)?)?,
                    b'h' => number(reader, 1)?,
                    _ => number(reader, 4)?,
                };
                word = notes.get(&place).cloned().flatten();
            }
            b'('
            | b'0'
            | b'1'
            | b'2'
            | b'N'
            | b'R'
            | b'b'
            | b'd'
            | b'l'
            | b't'
            | b's'
            | b'a'
            | b')'
            | b']'
            | b'}'
            | b'e'
            | b'u'
            | b'Q'
            | b'o'
            | 0x81
            | 0x85..=0x89
            | 0x8f..=0x92
            | 0x97
            | 0x98 => {}
            other => return Err(format!("the pickle has an unknown instruction {other:#04x}")),
        }
        top.swap(0, 1);
        top[1] = word;
    }
    Err(format!("the pickle has more than {INSTRUCTIONS_MAX} instructions, as no checkpoint does"))
}

/// Checks that a name is one of those that tensors, numbers and lists are made with.
fn allow(module: &str, name: &str) -> Result<(), String> {
    let allowed = match module {
        "collections" => matches!(name, "OrderedDict" | "Counter" | "defaultdict"),
        "torch" => {
            const TYPES: [&str; 14] = [
                "float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
                "Size", "device", "dtype", "Tensor",
            ];
            name.ends_with("Storage") || TYPES.contains(&name)
        }
        "torch.storage" => matches!(name, "TypedStorage" | "UntypedStorage"),
        "torch._utils" => name.starts_with("_rebuild_"),
        "torch._tensor" => name == "_rebuild_from_type_v2",
        "torch.nn.parameter" => name == "Parameter",
        "numpy" => matches!(name, "dtype" | "ndarray"),
        "numpy.core.multiarray" | "numpy._core.multiarray" => matches!(name, "scalar" | "_reconstruct"),
        "_codecs" => name == "encode",
        "builtins" | "__builtin__" => matches!(name, "set" | "frozenset" | "list" | "dict" | "int" | "float" | "bool"),
        "argparse" => name == "Namespace",
        _ => false,
    };
    if allowed {
        Ok(())
    } else {
        Err(format!(
            "holds {module}.{name}, which is code to be run, and nothing of it was: \
             take a file of tensors alone (torch.save of a state_dict), or a .safetensors"
        ))
    }
}

fn cut_off(_: impl std::fmt::Display) -> String {
    "the pickle ends in the midst of an instruction; was the download cut off?".to_owned()
}

fn byte(reader: &mut impl Read) -> Result<u8, String> {
    number(reader, 1).map(|number| number as u8)
}

/// An unsigned number of up to eight bytes, the lowest first.
fn number(reader: &mut impl Read, bytes: usize) -> Result<u64, String> {
    let mut buffer = [0; 8];
    reader.read_exact(&mut buffer[..bytes]).map_err(cut_off)?;
    Ok(u64::from_le_bytes(buffer))
}

fn parse(text: &str) -> Result<u64, String> {
    text.trim().parse().map_err(|_| format!("the pickle notes something at {text:?}, which is no number"))
}

/// The text up to the end of the line.
fn line(reader: &mut impl BufRead) -> Result<String, String> {
    let mut bytes = Vec::new();
    reader.take(PICKLE_MAX).read_until(b'\n', &mut bytes).map_err(cut_off)?;
    match bytes.pop() {
        Some(b'\n') => Ok(String::from_utf8_lossy(&bytes).trim_end_matches('\r').to_owned()),
        _ => Err(cut_off("")),
    }
}

/// A text after its length, if it is short enough for a name.
fn text(reader: &mut impl BufRead, bytes: usize) -> Result<Word, String> {
    let length = number(reader, bytes)?;
    if length > NAME_MAX {
        pass(reader, length)?;
        return Ok(None);
    }
    let mut text = vec![0; length as usize];
    reader.read_exact(&mut text).map_err(cut_off)?;
    Ok(String::from_utf8(text).ok().map(Rc::from))
}

/// Passes over what follows its own length.
fn skip(reader: &mut impl BufRead, bytes: usize) -> Result<(), String> {
    let length = number(reader, bytes)?;
    pass(reader, length)
}

/// Passes over so many bytes.
fn pass(reader: &mut impl BufRead, length: u64) -> Result<(), String> {
    let passed = io::copy(&mut reader.take(length), &mut io::sink()).map_err(cut_off)?;
    if passed == length { Ok(()) } else { Err(cut_off("")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(bytes: &[u8]) -> Result<(), String> {
        pickle(&mut &*bytes)
    }

    #[test]
    fn code_is_found_however_it_is_named() {
        let calls: [&[u8]; 6] = [
            b"cos\nsystem\n(X\x04\0\0\0true\x85R.",
            b"\x80\x02cposix\nsystem\nU\x04true\x85R.",
            b"(S'true'\nios\nsystem\n.",
            b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
            // Noted first, and put together from the notes.
            b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94N0h\0h\x01\x93.",
            b"\x80\x02}cbuiltins\neval\nX\x01\0\0\x001\x85R0.", // called and thrown away
        ];
        for bytes in calls {
            let problem = look(bytes).unwrap_err();
            assert!(problem.contains("code to be run"), "{problem}");
        }
        let hidden = look(b"\x80\x04\x8c\x02os(\x8c\x06system\x93.").unwrap_err();
        assert!(hidden.contains("roundabout"), "{hidden}");
    }

    #[test]
    fn what_makes_tensors_is_let_through_in_every_protocol() {
        look(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nq\0(ctorch\nFloatStorage\nq\x01tR.").unwrap();
        look(b"ccollections\nOrderedDict\np0\n(tR.").unwrap();
        let frame = b"\x80\x04\x95\x20\0\0\0\0\0\0\0";
        let ordered = b"\x8c\x0bcollections\x94\x8c\x0bOrderedDict\x94\x93)R.";
        look(&[&frame[..], ordered].concat()).unwrap();
    }

    #[test]
    fn a_pickle_of_nothing_but_notes_or_values_ends() {
        for filler in [0x94, b'N', b'('] {
            let bytes = [&b"\x80\x04\x8c\x01a"[..], &vec![filler; 2 << 20], b"."].concat();
            assert_eq!(
                look(&bytes).unwrap_err(),
                "the pickle has more than 1048576 instructions, as no checkpoint does"
            );
        }
    }

    #[test]
    fn what_is_cut_off_or_claims_more_than_is_there_ends_at_once() {
        for bytes in
            [&b""[..], b"\x80", b"cos", b"X\xff\xff\xff\xffshort", b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fx", b"N"]
        {
            assert!(look(bytes).unwrap_err().contains("cut off"), "{bytes:?}");
        }
        assert!(look(b"\xee").unwrap_err().contains("0xee"));
    }
}
