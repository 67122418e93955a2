//! The form in which a file is stored and sent: raw, or packed by zstd where
//! that saves at least a tenth.

use std::io::{self, Read, Write};

use domain::digest::Digest;
use zstd::stream::raw;
use zstd::stream::zio;

use crate::convert::{InvalidField, invalid};
use crate::v1;

/// Bytes that are packed on trial to decide about a whole file.
pub const TRIAL: usize = 1024 * 1024;

/// Below this, a file takes one block on disk either way.
const WORTH_TRYING: usize = 4096;

/// zstd's own default: fast enough to keep up with a disk.
const LEVEL: i32 = 3;

/// How stored bytes relate to raw ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Encoding {
    /// They are the same.
    Raw,
    /// One zstd stream.
    Zstd,
}

impl Encoding {
    /// Both forms, the likelier one first.
    pub const ALL: [Self; 2] = [Self::Raw, Self::Zstd];

    /// The form for a file that begins with these bytes, [`TRIAL`] of them at
    /// most: packed if that saves at least a tenth of them.
    ///
    /// # Errors
    /// If memory is lacking.
    pub fn choose(beginning: &[u8]) -> io::Result<Self> {
        if beginning.len() < WORTH_TRYING {
            return Ok(Self::Raw);
        }
        let packed = zstd::bulk::compress(beginning, LEVEL)?.len();
        Ok(if packed * 10 <= beginning.len() * 9 { Self::Zstd } else { Self::Raw })
    }

    /// What a stored file's name ends with.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Raw => "",
            Self::Zstd => ".zst",
        }
    }

    /// Reads raw bytes as stored ones.
    ///
    /// # Errors
    /// If memory is lacking.
    pub fn encode(self, raw: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Self::Raw => Box::new(raw),
            Self::Zstd => Box::new(zstd::stream::read::Encoder::new(raw, LEVEL)?),
        })
    }

    /// Reads stored bytes as raw ones.
    ///
    /// # Errors
    /// If memory is lacking.
    pub fn decode(self, stored: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Self::Raw => Box::new(stored),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::new(stored)?),
        })
    }

    /// From the wire.
    ///
    /// # Errors
    /// If it is missing or unknown.
    pub fn decode_field(number: i32) -> Result<Self, InvalidField> {
        match v1::Encoding::try_from(number) {
            Ok(v1::Encoding::Raw) => Ok(Self::Raw),
            Ok(v1::Encoding::Zstd) => Ok(Self::Zstd),
            Ok(v1::Encoding::Unspecified) => Err(invalid("encoding", "is missing")),
            Err(_) => Err(invalid("encoding", format!("{number} is not known; upgrade the older side"))),
        }
    }
}

impl From<Encoding> for v1::Encoding {
    fn from(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Raw => Self::Raw,
            Encoding::Zstd => Self::Zstd,
        }
    }
}

/// Digest and length of raw bytes that arrive in their stored form, piece by
/// piece.
pub struct Check(Form);

enum Form {
    Raw(Tally),
    Zstd(zio::Writer<Tally, raw::Decoder<'static>>),
}

struct Tally {
    hasher: Box<blake3::Hasher>,
    size: u64,
    limit: u64,
}

impl Write for Tally {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.size += bytes.len() as u64;
        if self.size > self.limit {
            let message = format!("there are more than the {} bytes announced", self.limit);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Check {
    /// For at most `limit` raw bytes.
    ///
    /// # Errors
    /// If memory is lacking.
    pub fn new(encoding: Encoding, limit: u64) -> io::Result<Self> {
        let tally = Tally { hasher: Box::default(), size: 0, limit };
        Ok(Self(match encoding {
            Encoding::Raw => Form::Raw(tally),
            Encoding::Zstd => Form::Zstd(zio::Writer::new(tally, raw::Decoder::new()?)),
        }))
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// If it is no zstd stream, or there are more raw bytes than the limit.
    pub fn update(&mut self, stored: &[u8]) -> io::Result<()> {
        match &mut self.0 {
            Form::Raw(tally) => tally.write_all(stored),
            Form::Zstd(writer) => writer.write_all(stored),
        }
    }

    /// Takes all that a reader has; returns how many stored bytes that were.
    ///
    /// # Errors
    /// Those of the reader and of [`Check::update`].
    pub fn update_reader(&mut self, mut stored: impl Read) -> io::Result<u64> {
        let mut buffer = vec![0; 64 * 1024];
        let mut length = 0;
        loop {
            match stored.read(&mut buffer)? {
                0 => return Ok(length),
                read => {
                    self.update(&buffer[..read])?;
                    length += read as u64;
                }
            }
        }
    }

    /// Digest and length of the raw bytes.
    ///
    /// # Errors
    /// If the zstd stream has no end.
    pub fn finish(self) -> io::Result<(Digest, u64)> {
        let tally = match self.0 {
            Form::Raw(tally) => tally,
            Form::Zstd(mut writer) => {
                writer.finish()?;
                writer.into_inner().0
            }
        };
        Ok((tally.hasher.finalize().into(), tally.size))
    }
}

impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Check")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> Vec<u8> {
        (0..20_000).flat_map(|number: u32| format!("{number} stones\n").into_bytes()).collect()
    }

    /// Bytes that no compressor makes smaller.
    fn noise() -> Vec<u8> {
        let mut bytes = vec![0; 100_000];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    fn stored(encoding: Encoding, raw: &[u8]) -> Vec<u8> {
        let mut stored = vec![];
        encoding.encode(io::Cursor::new(raw.to_vec())).unwrap().read_to_end(&mut stored).unwrap();
        stored
    }

    #[test]
    fn only_what_gets_smaller_is_packed() {
        assert_eq!(Encoding::choose(&text()).unwrap(), Encoding::Zstd);
        assert_eq!(Encoding::choose(&noise()).unwrap(), Encoding::Raw);
        assert_eq!(Encoding::choose(&[0; 100]).unwrap(), Encoding::Raw, "not worth a try");
    }

    #[test]
    fn the_digest_is_that_of_the_raw_bytes_in_either_form() {
        for encoding in Encoding::ALL {
            let mut check = Check::new(encoding, text().len() as u64).unwrap();
            for piece in stored(encoding, &text()).chunks(777) {
                check.update(piece).unwrap();
            }
            assert_eq!(check.finish().unwrap(), (Digest::of(&text()), text().len() as u64));
            let mut raw = vec![];
            encoding.decode(io::Cursor::new(stored(encoding, &text()))).unwrap().read_to_end(&mut raw).unwrap();
            assert_eq!(raw, text());
        }
    }

    #[test]
    fn more_than_announced_ends_at_once_however_well_it_packs() {
        for encoding in Encoding::ALL {
            let mut check = Check::new(encoding, 1000).unwrap();
            assert!(check.update(&stored(encoding, &vec![0; 10_000_000])).is_err(), "{encoding:?}");
        }
    }

    #[test]
    fn a_packed_stream_without_its_end_is_refused() {
        let whole = stored(Encoding::Zstd, &text());
        for length in [0, 1, whole.len() / 2, whole.len() - 1] {
            let mut check = Check::new(Encoding::Zstd, u64::MAX).unwrap();
            check.update(&whole[..length]).unwrap();
            assert!(check.finish().is_err(), "{length}");
        }
    }
}
