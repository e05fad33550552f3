//! As much of the ELF format as it takes to know what a program or library needs to be loaded.
//!
//! Reads 64-bit little-endian files of this machine's own architecture; others are treated as no ELF files at all. Trusts nothing it
//! reads: each length is bounded, each offset checked by the read itself.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// More program headers, dynamic entries or strings than any real file has.
const HEADERS_MAX: u16 = 256;
const DYNAMIC_BYTES_MAX: u64 = 64 * 1024;
const NAME_BYTES_MAX: u64 = 4096;

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;

const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;

/// What a program or library says of how it wants to be loaded.
#[derive(Debug, Default)]
pub(crate) struct Elf {
    /// The program that loads it (`PT_INTERP`).
    pub(crate) interpreter: Option<PathBuf>,
    /// The libraries it needs (`DT_NEEDED`), mostly names without a directory.
    pub(crate) needed: Vec<PathBuf>,
    /// Where it wants them looked for first (`DT_RUNPATH`), colons and `$ORIGIN` unresolved.
    pub(crate) search: Vec<PathBuf>,
}

/// The program that the kernel starts to load `program`, if it is dynamically linked: usually `ld.so`.
pub fn interpreter(program: &Path) -> io::Result<Option<PathBuf>> {
    Ok(read(program)?.and_then(|elf| elf.interpreter))
}

/// Reads a file's needs; `None` if it is no ELF file for this machine.
pub(crate) fn read(path: &Path) -> io::Result<Option<Elf>> {
    let file = File::open(path)?;
    let mut header = [0; 64];
    match file.read_exact_at(&mut header, 0) {
        Ok(()) => (),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    // The magic number, 64 bits, little-endian.
    if header[..6] != *b"\x7fELF\x02\x01" || u16_at(&header, 18) != MACHINE {
        return Ok(None);
    }
    let (offset, entry, count) = (u64_at(&header, 32), u16_at(&header, 54), u16_at(&header, 56));
    if entry != 56 || count > HEADERS_MAX {
        return Ok(None);
    }
    let mut table = vec![0; usize::from(entry) * usize::from(count)];
    file.read_exact_at(&mut table, offset)?;
    let segments: Vec<Segment> = table.chunks_exact(56).map(Segment::read).collect();

    let mut elf = Elf::default();
    if let Some(segment) = segments.iter().find(|segment| segment.kind == PT_INTERP) {
        elf.interpreter = Some(string(&file, segment.offset, segment.bytes)?);
    }
    if let Some(segment) = segments.iter().find(|segment| segment.kind == PT_DYNAMIC) {
        let mut dynamic = vec![0; segment.bytes.min(DYNAMIC_BYTES_MAX) as usize];
        file.read_exact_at(&mut dynamic, segment.offset)?;
        let entries: Vec<(u64, u64)> =
            dynamic.chunks_exact(16).map(|entry| (u64_at(entry, 0), u64_at(entry, 8))).take_while(|(tag, _)| *tag != 0).collect();
        // The string table is given by its address in memory; the segment that is loaded there says where it is in the file.
        let strings = entries.iter().find(|(tag, _)| *tag == DT_STRTAB).and_then(|(_, address)| {
            let segment = segments.iter().find(|segment| segment.kind == PT_LOAD && segment.holds(*address))?;
            Some(address - segment.address + segment.offset)
        });
        let Some(strings) = strings else { return Ok(Some(elf)) };
        for (tag, value) in entries {
            let at = strings.saturating_add(value);
            match tag {
                DT_NEEDED => elf.needed.push(string(&file, at, NAME_BYTES_MAX)?),
                DT_RPATH | DT_RUNPATH => elf.search.push(string(&file, at, NAME_BYTES_MAX)?),
                _ => (),
            }
        }
    }
    Ok(Some(elf))
}

struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    bytes: u64,
}

impl Segment {
    fn read(entry: &[u8]) -> Self {
        Self {
            kind: u32::from(u16_at(entry, 0)) | u32::from(u16_at(entry, 2)) << 16,
            offset: u64_at(entry, 8),
            address: u64_at(entry, 16),
            bytes: u64_at(entry, 32),
        }
    }

    fn holds(&self, address: u64) -> bool {
        address.checked_sub(self.address).is_some_and(|within| within < self.bytes)
    }
}

/// The string at `offset` up to its zero byte, at most `bytes` long.
fn string(file: &File, offset: u64, bytes: u64) -> io::Result<PathBuf> {
    let mut buffer = vec![0; bytes.min(NAME_BYTES_MAX) as usize];
    let read = file.read_at(&mut buffer, offset)?;
    match buffer[..read].iter().position(|byte| *byte == 0) {
        Some(end) => {
            buffer.truncate(end);
            Ok(PathBuf::from(std::ffi::OsString::from_vec(buffer)))
        }
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "an ELF string has no end")),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_needs_the_c_library_and_a_text_file_needs_nothing() {
        let program = std::env::current_exe().unwrap();
        let elf = read(&program).unwrap().unwrap();
        assert!(elf.needed.iter().any(|name| name.to_string_lossy().starts_with("libc.so")), "{elf:?}");
        assert!(elf.interpreter.unwrap().is_absolute());
        assert!(read(Path::new("Cargo.toml")).unwrap().is_none());
    }
}
