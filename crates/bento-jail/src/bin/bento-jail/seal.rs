//! The one `execve`.
//!
//! The filter of system calls must be up before the function starts, so it has to let one `execve` through, and no second. It knows the one by
//! the addresses of its three arguments: they are put at random places in memory, which the filter compares. The started program has
//! neither that memory nor those numbers, and there are some 2^100 of them to guess from.

use std::ffi::{CString, OsStr, c_char};
use std::io;
use std::os::unix::ffi::OsStrExt;

use bento_jail::Spec;

/// Tries to find a free place. Each succeeds unless 128 TiB are nearly full.
const TRIES: usize = 16;

/// The arguments of the one `execve`, at their secret places.
pub(crate) struct Seal {
    program: *const c_char,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    /// What the pointers point to. Never read, only kept.
    _strings: Vec<CString>,
}

impl Seal {
    /// Lays out the arguments. Nothing may be freed from then on until `execute`, so they are simply never freed.
    pub(crate) fn lay_out(spec: &Spec) -> io::Result<Self> {
        let text = |bytes: &OsStr| CString::new(bytes.as_bytes()).map_err(io::Error::other);
        let program = text(spec.program.as_os_str())?;
        let mut arguments = vec![program.clone()];
        for argument in &spec.arguments {
            arguments.push(text(OsStr::new(argument))?);
        }
        let mut environment = Vec::new();
        for (name, value) in &spec.environment {
            environment.push(text(OsStr::new(&format!("{name}={value}")))?);
        }
        let pointers =
            |strings: &[CString]| strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect::<Vec<*const c_char>>();
        let (argument_pointers, environment_pointers) = (pointers(&arguments), pointers(&environment));
        arguments.append(&mut environment);
        Ok(Self {
            program: hide(program.as_bytes_with_nul())?.cast(),
            arguments: hide(&argument_pointers)?,
            environment: hide(&environment_pointers)?,
            _strings: arguments,
        })
    }

    /// The three addresses, for the filter.
    pub(crate) fn addresses(&self) -> [u64; 3] {
        [self.program as u64, self.arguments as u64, self.environment as u64]
    }

    /// Becomes the program. Returns only if that failed.
    pub(crate) fn execute(&self) -> io::Error {
        // WHY: the addresses must be exactly these, and std would build its own arrays.
        // SAFETY: the three were laid out by `lay_out`: a C string and two arrays of C strings that end with null, none of them ever freed.
        unsafe { libc::execve(self.program, self.arguments, self.environment) };
        io::Error::last_os_error()
    }
}

/// Copies values to a fresh mapping at a random address, which is never unmapped.
fn hide<T: Copy>(values: &[T]) -> io::Result<*const T> {
    let bytes = size_of_val(values);
    for _ in 0..TRIES {
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        // 47 bits of addresses, of which the lowest 4 GiB are left alone; the place within the page is random as well, in steps of 16 bytes.
        let random = u64::from_le_bytes(random);
        let within = (random >> 52) & 0xff0;
        let page = (random & 0x7fff_ffff_f000).max(1 << 32);
        let length = within as usize + bytes;
        // WHY: a mapping at a chosen address is the only way to place something there.
        // SAFETY: MAP_FIXED_NOREPLACE never touches an existing mapping.
        let mapped = unsafe {
            libc::mmap(
                page as *mut libc::c_void,
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
                -1,
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            continue;
        }
        // WHY: fills the fresh mapping.
        // SAFETY: the mapping is `length` bytes and writable, nobody else knows it, and page start plus a multiple of 16 is aligned for
        // characters and pointers.
        unsafe {
            let place = mapped.byte_add(within as usize).cast::<T>();
            std::ptr::copy_nonoverlapping(values.as_ptr(), place, values.len());
            return Ok(place);
        }
    }
    Err(io::Error::other("found no free place in the address space"))
}
