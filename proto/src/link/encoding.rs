//! The form in which a file is stored and sent: raw, or packed by zstd where
//! that saves at least a tenth.
//!
//! Whoever unpacks bytes of others gives them a window of [`WINDOW_LOG_MAX`] and no
//! more, and takes no more packed bytes than [`Encoding::stored_max`] allows.

use std::io::{self, Read, Write};

use domain::digest::Digest;
use zstd::stream::raw::{self, DParameter};
use zstd::stream::zio;

use crate::convert::{InvalidField, invalid};
use crate::v1;

/// Bytes that are packed on trial to decide about a whole file.
pub const TRIAL: usize = 1024 * 1024;

/// The size below which packing is not tried: such a file takes one block on disk either way.
const WORTH_TRYING: usize = 4096;

/// The zstd level: the library's own default, fast enough to keep up with a disk.
const LEVEL: i32 = 3;

/// Power of two of the bytes that unpacking a stream may keep at hand: 8 MiB. What
/// [`Encoding::encode`] makes needs a quarter of that.
pub const WINDOW_LOG_MAX: u32 = 23;

/// What zstd says of a stream that needs a larger window.
const TOO_MUCH_MEMORY: &str = "Frame requires too much memory for decoding";

/// How stored bytes relate to raw ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Encoding {
    /// Stored bytes are the raw ones.
    Raw,
    /// Stored bytes are one zstd stream.
    Zstd,
}

impl Encoding {
    /// All encodings, the likelier one first.
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

    /// The ending of a stored file's name.
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
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(stored)?;
                decoder.window_log_max(WINDOW_LOG_MAX)?;
                Box::new(decoder)
            }
        })
    }

    /// Most bytes of the stored form of so many raw ones: what does not get smaller
    /// may get a little larger. Packed streams can hold any number of bytes that mean
    /// nothing.
    pub fn stored_max(self, raw: u64) -> u64 {
        match self {
            Self::Raw => raw,
            Self::Zstd => raw.saturating_add(raw / 256).saturating_add(1024),
        }
    }

    /// Reads an encoding from the wire.
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

/// Why stored bytes are refused.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// There are more raw bytes than announced.
    #[error("there are more than the {0} bytes announced")]
    More(u64),
    /// The packed form is larger than anything that so few raw bytes are packed to.
    #[error("the packed form has more than the {stored} bytes that {raw} raw ones can take")]
    Padded {
        /// The most stored bytes that are taken.
        stored: u64,
        /// The raw bytes that were announced.
        raw: u64,
    },
    /// Unpacking would take more memory than is given.
    #[error("unpacking it takes a window of more than 2^{WINDOW_LOG_MAX} bytes; pack it with a smaller one")]
    Window,
    /// The stored bytes are no zstd stream, or one without an end.
    #[error("{0}")]
    Stream(io::Error),
}

impl Invalid {
    fn of_zstd(error: io::Error) -> Self {
        match error.downcast() {
            // What the tally said.
            Ok(invalid) => invalid,
            // The library tells its errors apart by their text only.
            Err(error) if error.to_string().contains(TOO_MUCH_MEMORY) => Self::Window,
            Err(error) => Self::Stream(error),
        }
    }
}

/// Why a reader's bytes could not be checked to their end.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The reader failed, which says nothing about the bytes.
    #[error("cannot be read: {0}")]
    Read(#[source] io::Error),
    /// The bytes are wrong.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

/// Digest and length of raw bytes that arrive in their stored form, piece by
/// piece.
pub struct Check {
    form: Form,
    stored: u64,
    stored_max: u64,
    /// The most raw bytes that are taken.
    limit: u64,
}

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
            return Err(io::Error::other(Invalid::More(self.limit)));
        }
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Check {
    /// Checks a stream of at most `limit` raw bytes.
    ///
    /// # Errors
    /// If memory is lacking.
    pub fn new(encoding: Encoding, limit: u64) -> io::Result<Self> {
        let tally = Tally { hasher: Box::default(), size: 0, limit };
        let form = match encoding {
            Encoding::Raw => Form::Raw(tally),
            Encoding::Zstd => {
                let mut decoder = raw::Decoder::new()?;
                decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))?;
                Form::Zstd(zio::Writer::new(tally, decoder))
            }
        };
        Ok(Self { form, stored: 0, stored_max: encoding.stored_max(limit), limit })
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// If it is no zstd stream, or there is more than the limit allows.
    pub fn update(&mut self, stored: &[u8]) -> Result<(), Invalid> {
        self.stored += stored.len() as u64;
        let taken = match &mut self.form {
            Form::Raw(tally) => tally.write_all(stored),
            Form::Zstd(writer) => writer.write_all(stored),
        };
        taken.map_err(Invalid::of_zstd)?;
        if self.stored > self.stored_max {
            return Err(Invalid::Padded { stored: self.stored_max, raw: self.limit });
        }
        Ok(())
    }

    /// Takes all that a reader has; returns how many stored bytes that were.
    ///
    /// # Errors
    /// Those of the reader and of [`Check::update`].
    pub fn update_reader(&mut self, mut stored: impl Read) -> Result<u64, CheckError> {
        let mut buffer = vec![0; 64 * 1024];
        let mut length = 0;
        loop {
            match stored.read(&mut buffer) {
                Ok(0) => return Ok(length),
                Ok(read) => {
                    self.update(&buffer[..read])?;
                    length += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(CheckError::Read(error)),
            }
        }
    }

    /// Digest and length of the raw bytes.
    ///
    /// # Errors
    /// If the zstd stream has no end.
    pub fn finish(self) -> Result<(Digest, u64), Invalid> {
        let tally = match self.form {
            Form::Raw(tally) => tally,
            Form::Zstd(mut writer) => {
                writer.finish().map_err(Invalid::of_zstd)?;
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

    /// Packed bytes that mean nothing, so many of them: a frame to be skipped.
    fn skipped(length: u32) -> Vec<u8> {
        [&0x184d_2a50u32.to_le_bytes(), &length.to_le_bytes(), vec![0; length as usize].as_slice()].concat()
    }

    #[test]
    fn a_packed_form_has_few_more_bytes_than_the_raw_one() {
        let raw = b"stone";
        let empty = stored(Encoding::Zstd, b"");
        for padding in [skipped(2000), empty.repeat(200)] {
            let padded = [padding, stored(Encoding::Zstd, raw)].concat();
            let refused = Check::new(Encoding::Zstd, 5).unwrap().update(&padded).unwrap_err();
            assert!(matches!(refused, Invalid::Padded { stored: 1029, raw: 5 }), "{refused}");
            let mut known = Check::new(Encoding::Zstd, u64::MAX).unwrap();
            known.update(&padded).unwrap();
            assert_eq!(known.finish().unwrap(), (Digest::of(raw), 5));
        }
        // What a trial took for text and is none.
        let noise: Vec<u8> = (0..20u8).flat_map(|_| noise()).collect();
        assert!(stored(Encoding::Zstd, &noise).len() as u64 <= Encoding::Zstd.stored_max(noise.len() as u64));
    }

    #[test]
    fn a_stream_that_takes_more_memory_than_ours_is_refused_by_name() {
        let with_window = |log: u32| {
            let mut encoder = zstd::stream::write::Encoder::new(vec![], LEVEL).unwrap();
            encoder.window_log(log).unwrap();
            encoder.write_all(&vec![0; 20 << 20]).unwrap();
            encoder.finish().unwrap()
        };
        for (log, fits) in [(WINDOW_LOG_MAX, true), (WINDOW_LOG_MAX + 1, false), (27, false)] {
            let packed = with_window(log);
            let refused = Check::new(Encoding::Zstd, u64::MAX).unwrap().update(&packed).err();
            assert_eq!(refused.is_none(), fits, "{log}: {refused:?}");
            assert!(refused.is_none_or(|refused| matches!(refused, Invalid::Window)));
            let mut decoder = Encoding::Zstd.decode(io::Cursor::new(packed)).unwrap();
            assert_eq!(io::copy(&mut decoder, &mut io::sink()).is_ok(), fits, "{log}");
        }
        let ours = stored(Encoding::Zstd, &vec![0; 20 << 20]);
        assert!(Check::new(Encoding::Zstd, u64::MAX).unwrap().update(&ours).is_ok());
    }

    #[test]
    fn a_reader_that_fails_says_nothing_about_the_bytes() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::InvalidData.into())
            }
        }
        for encoding in Encoding::ALL {
            let ended = Check::new(encoding, u64::MAX).unwrap().update_reader(Broken);
            assert!(matches!(ended, Err(CheckError::Read(_))), "{ended:?}");
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
