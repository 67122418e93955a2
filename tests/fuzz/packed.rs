//! Stored forms of files: what is unpacked is never more than was announced.

use std::io::{Cursor, Read};

use domain::digest::Digest;
use proto::encoding::{Check, Encoding, Invalid};

use super::MEMORY;
use crate::mutate::Target;

/// Bytes that a file is announced to have.
const ANNOUNCED: u64 = 1 << 20;

fn packed(raw: &[u8]) -> Vec<u8> {
    let mut stored = Vec::new();
    Encoding::Zstd.encode(Cursor::new(raw.to_vec())).unwrap().read_to_end(&mut stored).unwrap();
    stored
}

fn check(encoding: Encoding, bytes: &[u8]) -> Result<(Digest, u64), Invalid> {
    let mut check = Check::new(encoding, ANNOUNCED).unwrap();
    // In pieces, as it arrives.
    bytes.chunks(1000).try_for_each(|piece| check.update(piece))?;
    check.finish()
}

#[test]
fn any_stored_bytes_are_refused_or_no_more_than_announced() {
    let text: Vec<u8> = (0..5000u32).flat_map(|n| (n * n).to_string().into_bytes()).collect();
    let corpus = vec![packed(b""), packed(b"x"), packed(&text), packed(&vec![0; 4 << 20]), text];
    let execute = |bytes: &[u8]| {
        assert_eq!(check(Encoding::Raw, bytes).unwrap(), (Digest::of(bytes), bytes.len() as u64));
        let again = check(Encoding::Zstd, &packed(bytes)).unwrap();
        assert_eq!(again, (Digest::of(bytes), bytes.len() as u64));
        let found = check(Encoding::Zstd, bytes);
        let mut raw = Vec::new();
        let read = Encoding::Zstd.decode(Cursor::new(bytes.to_vec()));
        let read = read.and_then(|stored| stored.take(ANNOUNCED + 1).read_to_end(&mut raw));
        match found {
            Ok((digest, size)) => {
                assert!(size <= ANNOUNCED && read.is_ok(), "{size}");
                assert_eq!((digest, size), (Digest::of(&raw), raw.len() as u64));
                "whole".to_owned()
            }
            Err(error) => error.to_string(),
        }
    };
    Target { name: "packed", executions: 2_000, memory: MEMORY, corpus, words: vec![] }.run(execute);
}
