//! Files mapped into memory, and what happens if one becomes shorter meanwhile.

use std::{
    fs::File,
    io,
    ops::Deref,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use memmap2::Mmap;

/// A file in memory, for reading.
#[derive(Debug)]
pub struct Map {
    bytes: Mmap,
    _source: Arc<Source>,
}

#[derive(Debug)]
struct Source {
    file: File,
    path: PathBuf,
    len: u64,
}

/// What is mapped now.
static SOURCES: Mutex<Vec<Weak<Source>>> = Mutex::new(Vec::new());

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Maps a file, whose name is for messages. Every map of the workspace is made here.
///
/// # Errors
/// If it cannot be mapped.
pub fn map_file(file: File, path: &Path) -> io::Result<Map> {
    // SAFETY: the map is only read. Files that this program writes (weights, samples, checkpoints) are written beside
    // their place and renamed, so a map keeps what it had. A file of the user that another process cuts short meanwhile
    // makes reads fault; [`end_where_maps_shrink`] says what then happens.
    let bytes = unsafe { Mmap::map(&file)? };
    let source = Arc::new(Source { file, path: path.to_owned(), len: bytes.len() as u64 });
    let mut sources = SOURCES.lock().unwrap_or_else(PoisonError::into_inner);
    sources.retain(|source| source.strong_count() > 0);
    sources.push(Arc::downgrade(&source));
    Ok(Map { bytes, _source: source })
}

/// Fails if a file that is mapped has become shorter. Up to the end of its last page that is read as zeros, without a
/// fault: what was computed from maps is good if this is asked afterwards.
///
/// # Errors
/// The file and what is wrong with it.
pub fn check_maps() -> Result<(), (PathBuf, io::Error)> {
    let sources = SOURCES.lock().unwrap_or_else(PoisonError::into_inner);
    let shorter = |source: &Arc<Source>| source.file.metadata().is_ok_and(|now| now.len() < source.len);
    sources.iter().filter_map(Weak::upgrade).find(shorter).map_or(Ok(()), |source| {
        Err((source.path.clone(), io::Error::other("the file became shorter while it was read")))
    })
}

/// How a program ends where a mapped file became shorter while it was read.
#[derive(Clone, Copy, Debug)]
pub struct ShrunkenMap {
    /// Descriptor that the message is written to.
    pub output: i32,
    /// The message up to the name of the file.
    pub before: &'static str,
    /// The message after it.
    pub after: &'static str,
    /// Exit code.
    pub code: i32,
}

/// From now on a read beyond the end of a mapped file ends the process with a message instead of SIGBUS. Programs call
/// this once, before they map anything; elsewhere than on Linux it does nothing.
#[cfg(not(target_os = "linux"))]
pub fn end_where_maps_shrink(_: ShrunkenMap) {}

#[cfg(target_os = "linux")]
pub use fault::end_where_maps_shrink;

/// Nothing here may allocate, lock or panic once the signal has come: only system calls that POSIX calls safe there.
#[cfg(target_os = "linux")]
mod fault {
    use std::{
        cell::UnsafeCell,
        mem::MaybeUninit,
        ptr,
        sync::{
            OnceLock,
            atomic::{AtomicBool, Ordering},
        },
    };

    use super::ShrunkenMap;

    /// Bytes of the list of maps that are looked at in a time; a line beyond that is not found.
    const ROOM: usize = 1 << 13;

    /// Memory of the one thread that handles the fault: alternative stacks are small.
    struct Room(UnsafeCell<[u8; ROOM]>);
    // SAFETY: `TAKEN` lets one thread in.
    unsafe impl Sync for Room {}

    static LIST: Room = Room(UnsafeCell::new([0; ROOM]));
    static TAKEN: AtomicBool = AtomicBool::new(false);
    static ENDING: OnceLock<(ShrunkenMap, libc::sigaction)> = OnceLock::new();

    /// From now on a read beyond the end of a mapped file ends the process with a message instead of SIGBUS. Programs
    /// call this once, before they map anything; elsewhere than on Linux it does nothing.
    pub fn end_where_maps_shrink(ending: ShrunkenMap) {
        // SAFETY: `sigaction` reads and writes structures that live here; zeros are an empty one.
        unsafe {
            let mut before = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
            libc::sigaction(libc::SIGBUS, ptr::null(), &mut before);
            if ENDING.set((ending, before)).is_err() {
                return;
            }
            let mut action = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
            action.sa_sigaction = handle as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGBUS, &action, ptr::null_mut());
        }
    }

    extern "C" fn handle(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        let Some((ending, before)) = ENDING.get() else { return };
        // SAFETY: the kernel gives a valid `info`; the calls are safe in handlers, their buffers live as long.
        unsafe {
            if (*info).si_code != libc::BUS_ADRERR {
                // Something else: what was there before handles it, when the instruction faults again.
                libc::sigaction(libc::SIGBUS, before, ptr::null_mut());
                return;
            }
            while TAKEN.swap(true, Ordering::AcqRel) {
                libc::pause();
            }
            let list = &mut *LIST.0.get();
            write(ending.output, ending.before.as_bytes());
            write(ending.output, name_at((*info).si_addr() as usize, list).unwrap_or(b"(name unknown)"));
            write(ending.output, ending.after.as_bytes());
            libc::_exit(ending.code);
        }
    }

    fn write(output: i32, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            // SAFETY: the buffer is as long as it says.
            let written = unsafe { libc::write(output, bytes.as_ptr().cast(), bytes.len()) };
            match usize::try_from(written).ok().and_then(|written| bytes.get(written..)) {
                Some(rest) if written > 0 => bytes = rest,
                _ => return,
            }
        }
    }

    /// The name of the file that is mapped at an address, from the kernel's list of maps, in printable ASCII.
    fn name_at(address: usize, list: &mut [u8; ROOM]) -> Option<&[u8]> {
        // SAFETY: the path ends in zero; the buffer is as long as it says.
        let file = unsafe { libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
        let mut filled = 0;
        let name = 'found: loop {
            let rest = list.get_mut(filled..)?;
            // SAFETY: as above.
            let read = unsafe { libc::read(file, rest.as_mut_ptr().cast(), rest.len()) };
            filled += usize::try_from(read).ok().filter(|&read| read > 0)?;
            let mut begin = 0;
            while let Some(len) = list.get(begin..filled)?.iter().position(|&byte| byte == b'\n') {
                let line = list.get(begin..begin + len)?;
                if covers(line, address) {
                    break 'found begin + line.iter().position(|&byte| byte == b'/')?..begin + len;
                }
                begin += len + 1;
            }
            list.copy_within(begin..filled, 0);
            filled -= begin;
        };
        let name = list.get_mut(name)?;
        for byte in name.iter_mut().filter(|byte| !matches!(byte, b' '..=b'~') || matches!(byte, b'"' | b'\\')) {
            *byte = b'?';
        }
        Some(name)
    }

    /// Whether a line of the list, `begin-end …` in hexadecimal, is of the map that an address lies in.
    fn covers(line: &[u8], address: usize) -> bool {
        let number =
            |bytes: &[u8]| std::str::from_utf8(bytes).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
        let mut parts = line.splitn(3, |byte| matches!(byte, b'-' | b' '));
        let (begin, end) = (parts.next().and_then(number), parts.next().and_then(number));
        begin.zip(end).is_some_and(|(begin, end)| (begin..end).contains(&address))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_name_of_a_map_is_found() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("weights \"é\u{1b}");
            std::fs::write(&path, [1; 10_000]).unwrap();
            let map = crate::map_file(std::fs::File::open(&path).unwrap(), &path).unwrap();
            let mut list = [0; ROOM];
            let name = name_at(map.as_ptr() as usize + 5000, &mut list).unwrap();
            let name = std::str::from_utf8(name).unwrap();
            assert_eq!(name, format!("{}/weights ????", folder.path().display()), "nothing that acts on a terminal");
            assert_eq!(name_at(1, &mut list), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_lost_a_part_of_its_last_page_is_found() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        std::fs::write(&path, [1; 5000]).unwrap();
        let map = map_file(File::open(&path).unwrap(), &path).unwrap();
        assert_eq!(map.len(), 5000);
        check_maps().unwrap();
        File::options().write(true).open(&path).unwrap().set_len(4999).unwrap();
        assert_eq!(map[4999], 0);
        assert_eq!(check_maps().unwrap_err().0, path.to_path_buf());
        drop(map);
        check_maps().unwrap();
    }
}
