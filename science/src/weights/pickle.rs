//! Writes files as `torch.save` does: a pickle of the few forms that a checkpoint needs,
//! and the values of its tensors beside it.

use std::io::{Cursor, Write};

use zip::CompressionMethod;
use zip::result::{ZipError, ZipResult};
use zip::write::{SimpleFileOptions, ZipWriter};

use super::Array;

/// Storages begin at multiples of this many bytes, as PyTorch writes them.
const ALIGNMENT: u16 = 64;

/// A pickle in the making, of the few forms that a checkpoint needs.
#[derive(Default)]
pub(crate) struct Pickle {
    bytes: Vec<u8>,
    /// The values of the tensors, outside of the pickle.
    storages: Vec<Vec<u8>>,
}

impl Pickle {
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.put(b"X");
        self.put(&(text.len() as u32).to_le_bytes());
        self.put(text.as_bytes());
    }

    pub(crate) fn integer(&mut self, value: u32) {
        self.put(&[0x8a, 8]); // of any length, so that it has no sign bit
        self.put(&u64::from(value).to_le_bytes());
    }

    pub(crate) fn float(&mut self, value: f64) {
        self.put(b"G");
        self.put(&value.to_be_bytes());
    }

    pub(crate) fn global(&mut self, module: &str, name: &str) {
        self.put(format!("c{module}\n{name}\n").as_bytes());
    }

    /// The keys and values that `fill` writes.
    pub(crate) fn dictionary(&mut self, fill: impl FnOnce(&mut Self)) {
        self.put(b"}(");
        fill(self);
        self.put(b"u");
    }

    pub(crate) fn ordered(&mut self, fill: impl FnOnce(&mut Self)) {
        self.global("collections", "OrderedDict");
        self.put(b")R(");
        fill(self);
        self.put(b"u");
    }

    pub(crate) fn tuple(&mut self, values: &[usize]) {
        self.put(b"(");
        values.iter().for_each(|value| self.integer(*value as u32));
        self.put(b"t");
    }

    /// A name with a tensor of 32-bit numbers in row-major order.
    pub(crate) fn tensor(&mut self, name: &str, array: &Array) {
        self.text(name);
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.put(b"((");
        self.text("storage");
        self.global("torch", "FloatStorage");
        self.text(&self.storages.len().to_string());
        self.text("cpu");
        self.integer(array.values.len() as u32);
        self.put(b"tQ"); // a reference to the storage
        self.integer(0);
        self.tuple(&array.shape);
        let strides = |axis: usize| array.shape[axis + 1..].iter().product();
        self.tuple(&(0..array.shape.len()).map(strides).collect::<Vec<usize>>());
        self.put(&[0x89]); // needs no gradient
        self.global("collections", "OrderedDict");
        self.put(b")RtR");
        self.storages.push(array.values.iter().flat_map(|value| value.to_le_bytes()).collect());
    }

    /// The pickle and its storages in the form of `torch.save`.
    pub(crate) fn archive(&self) -> ZipResult<Vec<u8>> {
        let options =
            SimpleFileOptions::DEFAULT.compression_method(CompressionMethod::Stored).with_alignment(ALIGNMENT);
        let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
        let mut add = |name: String, bytes: &[u8]| {
            archive.start_file(format!("archive/{name}"), options)?;
            archive.write_all(bytes).map_err(ZipError::from)
        };
        add("data.pkl".to_owned(), &self.bytes)?;
        add("byteorder".to_owned(), b"little")?;
        for (number, storage) in self.storages.iter().enumerate() {
            add(format!("data/{number}"), storage)?;
        }
        add("version".to_owned(), b"3\n")?;
        Ok(archive.finish()?.into_inner())
    }
}
